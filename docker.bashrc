# Read by each interactive shell of the container, as ~/.bashrc: the prompt and the next step.
# shellcheck shell=bash
PS1='pipeline:\w\$ '  # the host's user has no name here

# The scripts find the key by themselves; Terraform and dbt need its whole path, because they run
# in folders of their own.
key=/app/${GOOGLE_APPLICATION_CREDENTIALS:-credentials/gcp-key.json}
if [[ -f $key ]]; then export GOOGLE_APPLICATION_CREDENTIALS=$key; fi

# What .env says is what Terraform's variables of the same names say; a -var-file says otherwise.
export TF_VAR_environment=dev TF_VAR_gcp_project_id=$GCP_PROJECT_ID TF_VAR_gcp_region=$GCP_REGION \
    TF_VAR_bq_dataset=$BQ_DATASET TF_VAR_gcs_bucket_name=$GCS_BUCKET_NAME

if [[ ${GCP_PROJECT_ID:-your-project-id} == your-project-id ]]; then
    cat <<'NEXT'
Next step: make demo
  runs the whole pipeline on a local Google Cloud; needs no account and no key.

On Google Cloud instead: put the project and the bucket into .env and the key into
credentials/gcp-key.json, then leave with 'exit' and start the container again.
NEXT
else
    cat <<NEXT
Project $GCP_PROJECT_ID. Next steps, in this order:
  python start_apis_GCP.py
  cd terraform; terraform init; terraform apply -auto-approve; cd ..
  python batch_ingestion.py --entities products users carts
  python near_realtime_ingestion_2.py --poll-interval 60
  cd ey_test_tech; dbt deps && dbt build && dbt test; cd ..
  python kpi_report.py --open
NEXT
fi
