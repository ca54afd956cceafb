# Jobs hold no data: a destroy takes them along and an apply makes them again, so they are not
# protected. A failed job is not run again by Cloud Run: who started it knows what its code means, and
# the poller's next tick is its retry.
locals {
  jobs = !local.is_unattended ? {} : merge(
    local.daily_jobs,
    { for name in ["poller"] : name => local.poller if var.poller == "job" },
  )
}

resource "google_cloud_run_v2_job" "stage" {
  for_each = local.jobs

  name                = "fake-store-${each.key}"
  location            = var.gcp_region
  deletion_protection = false

  template {
    task_count = 1

    template {
      service_account = local.run_accounts[each.key].email
      max_retries     = 0
      timeout         = each.value.timeout

      containers {
        image       = var.image
        command     = each.value.command
        args        = each.value.args
        working_dir = each.value.folder

        resources {
          limits = { cpu = "1", memory = each.value.memory }
        }

        dynamic "env" {
          for_each = local.settings

          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }
}

# poller = "pool": one process that polls for as long as it lives, and is started again when it ends.
# At a deploy two may overlap for a moment: the state bucket lets one of them write.
resource "google_cloud_run_v2_worker_pool" "poller" {
  for_each = local.is_unattended && var.poller == "pool" ? { poller = local.poller } : {}

  name                = "fake-store-${each.key}"
  location            = var.gcp_region
  deletion_protection = false

  scaling {
    scaling_mode          = "MANUAL"
    manual_instance_count = 1
  }

  template {
    service_account = local.run_accounts[each.key].email

    containers {
      image       = var.image
      command     = each.value.command
      args        = each.value.args
      working_dir = each.value.folder

      resources {
        limits = { cpu = "1", memory = each.value.memory }
      }

      dynamic "env" {
        for_each = local.settings

        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }
}
