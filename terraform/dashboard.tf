# One page: is the day done, are the carts polled, does anything wait.
locals {
  charts = !local.is_unattended ? [] : [
    { title = "Days that ended, by status", label = "metric.label.status", filter = local.day_ended },
    { title = "Good polls", label = null, filter = local.user_metric["polls"] },
    { title = "Refused polls", label = null, filter = local.user_metric["polls_failed"] },
    { title = "Polls with events waiting", label = null, filter = local.user_metric["polls_waiting"] },
    { title = "Polls with events refused by Pub/Sub", label = null, filter = local.user_metric["dead_lettered"] },
    { title = "Entities that failed", label = "metric.label.entity", filter = local.user_metric["entities_failed"] },
    { title = "Pollers fenced", label = null, filter = local.user_metric["fenced"] },
    { title = "Containers that Cloud Run ended", label = null, filter = local.user_metric["crashes"] },
  ]
}

resource "google_monitoring_dashboard" "pipeline" {
  for_each = toset(local.is_unattended ? ["pipeline"] : [])

  dashboard_json = jsonencode({
    displayName = "Fake Store pipeline (${var.environment})"
    mosaicLayout = {
      columns = 48
      tiles = [
        for place, chart in local.charts : {
          xPos   = 24 * (place % 2)
          yPos   = 12 * floor(place / 2)
          width  = 24
          height = 12
          widget = {
            title = chart.title
            xyChart = {
              dataSets = [{
                plotType = "STACKED_BAR"
                timeSeriesQuery = {
                  timeSeriesFilter = {
                    filter = chart.filter
                    aggregation = {
                      alignmentPeriod    = "${local.poll_window}s"
                      perSeriesAligner   = "ALIGN_DELTA"
                      crossSeriesReducer = "REDUCE_SUM"
                      groupByFields      = chart.label[*]
                    }
                  }
                }
              }]
            }
          }
        }
      ]
    }
  })
}
