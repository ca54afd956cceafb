# People and BI tools read gold and nothing else: silver holds personal data, bronze the raw answers.
# To run a query they need roles/bigquery.jobUser too, on the project that pays for their queries,
# which may be another one; it is theirs to have.
resource "google_bigquery_dataset_iam_member" "gold_reader" {
  for_each = var.gold_readers

  dataset_id = google_bigquery_dataset.layer["gold"].dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = each.value
}
