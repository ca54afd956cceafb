variable "billing_account" {
  description = "Billing account, such as 0123AB-4567CD-89EF01, for a budget on the project; null makes none. Only with image."
  type        = string
  default     = null

  validation {
    condition     = var.billing_account == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "billing_account must look like 0123AB-4567CD-89EF01 ('gcloud billing accounts list'), or be null for no budget."
  }
}

variable "daily_schedule" {
  description = "When batch, dbt and report run, as cron in time_zone. Once a day: the alert on a missing day counts on it."
  type        = string
  default     = "0 4 * * *"

  validation {
    condition     = can(regex("^[0-5]?[0-9] ([01]?[0-9]|2[0-3]) \\* \\* \\*$", var.daily_schedule))
    error_message = "daily_schedule must be one time of every day, such as '30 4 * * *'."
  }
}

variable "fake_store_api_url" {
  description = "FAKE_STORE_API_URL in .env: the source that the jobs in Cloud Run ask. The public one may refuse Google's addresses."
  type        = string
  default     = "https://fakestoreapi.com"

  validation {
    condition     = can(regex("^https?://[^\\s/]+", var.fake_store_api_url))
    error_message = "fake_store_api_url must be an http or https address."
  }
}

variable "image" {
  description = "Image of the jobs in Cloud Run, by digest, as 'make push' prints it; null makes nothing that runs by itself."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$", var.image))
    error_message = "image must be named by its digest, …/pipeline@sha256:…, as 'make push' prints it. A tag does not do: Cloud Run keeps what the tag meant when the job was made, and Terraform sees no difference when it is moved."
  }
}

variable "monthly_budget" {
  description = "What the project may cost in a month, in the currency of billing_account, before a mail says so."
  type        = number
  default     = 20

  validation {
    condition     = var.monthly_budget >= 1 && floor(var.monthly_budget) == var.monthly_budget
    error_message = "monthly_budget must be a whole amount of 1 or more."
  }
}

variable "poll_interval_seconds" {
  description = "From one poll of the carts to the next. As a job in whole minutes that divide an hour."
  type        = number
  default     = 300

  validation {
    condition = alltrue([
      var.poll_interval_seconds >= (var.poller == "job" ? 60 : 1),
      var.poll_interval_seconds <= 3600,
      floor(var.poll_interval_seconds) == var.poll_interval_seconds,
      var.poller != "job" || contains([1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60], var.poll_interval_seconds / 60),
    ])
    error_message = "poll_interval_seconds must be whole seconds up to 3600; with poller = \"job\" a number of minutes that divides an hour, such as 60, 300 or 900."
  }
}

variable "poller" {
  description = "How the carts are polled: job, a run per tick of a scheduler, costs next to nothing; pool, one process all the time, also polls each second."
  type        = string
  default     = "job"

  validation {
    condition     = contains(["job", "pool"], var.poller)
    error_message = "poller must be job or pool."
  }
}

variable "registry" {
  description = "Make the repository that 'make push' needs, before there is an image to name; with image it is made anyway."
  type        = bool
  default     = false
}

variable "report_bucket_name" {
  description = "Bucket of the daily report; null means the project's id followed by -report."
  type        = string
  default     = null

  validation {
    condition     = var.report_bucket_name == null || can(regex("^[a-z0-9][a-z0-9_-]{4,61}[a-z0-9]$", var.report_bucket_name))
    error_message = "report_bucket_name must be 6 to 63 lower-case letters, digits, hyphens and underscores, or null."
  }
}

variable "report_readers" {
  description = "Who may open the report, such as user:ana@example.com or group:data@example.com."
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.report_readers :
      can(regex("^(user|group|serviceAccount|principal|principalSet|domain):.+$", member))
    ])
    error_message = "report_readers must be members with their kind, such as user:ana@example.com; the report is never public (allUsers)."
  }
}

variable "state_bucket_name" {
  description = "STATE_BUCKET_NAME in .env: bucket of the poller's state; null means the project's id followed by -near-realtime-state."
  type        = string
  default     = null

  validation {
    condition = alltrue([
      var.state_bucket_name == null || can(regex("^[a-z0-9][a-z0-9_-]{4,61}[a-z0-9]$", var.state_bucket_name)),
      var.state_bucket_name != var.gcs_bucket_name,
    ])
    error_message = "state_bucket_name must be 6 to 63 lower-case letters, digits, hyphens and underscores, another bucket than gcs_bucket_name, or null."
  }
}

variable "time_zone" {
  description = "Time zone of daily_schedule, such as Europe/Paris. In one with summer time one day a year has 25 hours."
  type        = string
  default     = "Etc/UTC"
}
