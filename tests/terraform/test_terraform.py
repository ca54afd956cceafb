"""terraform/: format, validity, its own tests, environments, wrong input, the second plan."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from dotenv import dotenv_values

from ingestion.project import PROJECT_FOLDER
from tests.support.terraform_cli import VARIABLES, Terraform

FOLDER = PROJECT_FOLDER / "terraform"
ENVIRONMENTS = ("dev", "staging", "prod")
CHECKOV = "checkov==3.3.30"


@pytest.fixture(scope="module")
def plans(terraform: Terraform) -> dict[str, dict[str, dict[str, Any]]]:
    """The planned values of each environment, in one project so that they can be compared."""
    return {environment: terraform.plan(environment) for environment in ENVIRONMENTS}


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Return 'type.attribute' for each attribute that two plans give another value."""
    return {
        f"{address.split('.')[0]}.{attribute}"
        for address in one
        for attribute in one[address]
        if one[address][attribute] != other[address][attribute]
    }


def test_files_are_formatted() -> None:
    if not shutil.which("terraform"):
        pytest.skip("there is no terraform binary: terraform/ is NOT checked")
    command = ["terraform", "fmt", "-check", "-recursive", "-diff", FOLDER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_init_and_validate_pass(terraform: Terraform) -> None:
    done = terraform.run("init", "-backend=false", "-input=false", "-no-color")
    assert done.returncode == 0, done.stderr
    done = terraform.run("validate", "-no-color")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stdout


@pytest.mark.parametrize("name", ["plan", "refused", "unattended"])
def test_terraforms_own_tests_pass(terraform: Terraform, name: str) -> None:
    messages = terraform.test(f"-filter=tests/{name}.tftest.hcl")
    told = [m["@message"] for m in messages if m["type"] in ("diagnostic", "test_run")]
    summary = next(m["test_summary"] for m in messages if m["type"] == "test_summary")
    assert summary["status"] == "pass", told
    runs = (FOLDER / "tests" / f"{name}.tftest.hcl").read_text().count('\nrun "')
    assert summary["passed"] == runs


def test_environments_are_the_same_resources(plans: dict[str, dict[str, Any]]) -> None:
    assert plans["dev"].keys() == plans["staging"].keys() == plans["prod"].keys()


def test_dev_and_prod_differ_in_protection_and_labels_only(
    plans: dict[str, dict[str, Any]],
) -> None:
    protection = {
        "google_bigquery_dataset.delete_contents_on_destroy",
        "google_bigquery_dataset.deletion_policy",
        "google_bigquery_table.deletion_protection",
        "google_pubsub_subscription.deletion_policy",
        "google_pubsub_topic.deletion_policy",
        "google_storage_bucket.deletion_policy",
        "google_storage_bucket.force_destroy",
    }
    labels = {"effective_labels", "terraform_labels"}
    found = differences(plans["dev"], plans["prod"])
    assert {name for name in found if name.split(".")[1] not in labels} == protection
    found = differences(plans["staging"], plans["prod"])
    assert {name.split(".")[1] for name in found} == labels


def test_the_bigquery_subscription_is_made_after_the_grants_that_it_needs(
    terraform: Terraform,
) -> None:
    graph = terraform.run("graph").stdout
    subscription = '"google_pubsub_subscription.bigquery"'
    grants = '"google_bigquery_table_iam_member.pubsub_agent"'
    assert f'{subscription} -> "terraform_data.iam_propagation"' in graph
    assert f'"terraform_data.iam_propagation" -> {grants}' in graph


def test_the_readme_names_every_role_that_is_granted_to_the_accounts(
    plans: dict[str, dict[str, Any]],
) -> None:
    credentials = (FOLDER / "README.md").read_text().split("## Credentials")[1]
    table = credentials.split("**On Google Cloud**")[0]
    accounts = {f"fake-store-{stage}@" for stage in ("ingestion", "dbt")}
    granted = {
        values["role"].removeprefix("roles/")
        for values in plans["prod"].values()
        if "role" in values and any(account in values["member"] for account in accounts)
    }
    assert set(re.findall(r"`((?:bigquery|pubsub|storage)\.\w+)`", table)) == granted


def test_the_guide_shows_what_an_apply_makes(plans: dict[str, dict[str, Any]]) -> None:
    guide = (PROJECT_FOLDER / "README.md").read_text()
    made = [address for address in plans["dev"] if not address.startswith("data.")]
    assert f"Apply complete! Resources: {len(made)} added, 0 changed, 0 destroyed." in guide
    shown = set(re.findall(r"^(\S+): Creation complete", guide, re.M))
    kinds = ("google_bigquery_dataset.", "google_storage_bucket.", "google_pubsub_topic.event")
    assert {address for address in made if address.startswith(kinds)} <= shown <= set(made)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_placeholders_of_an_environment_are_refused(
    terraform: Terraform, environment: str
) -> None:
    variables = f"-var-file=environments/{environment}.tfvars"
    done = terraform.run("plan", "-no-color", "-input=false", variables)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "gcp_project_id is still the placeholder" in said
    assert "gcs_bucket_name is still the placeholder" in said


def test_the_variables_of_another_environment_are_refused_in_a_workspace(
    terraform: Terraform,
) -> None:
    given = [f"-var={name}={value}" for name, value in VARIABLES.items()]
    assert terraform.run("workspace", "new", "dev").returncode == 0
    try:
        done = terraform.run("plan", "-no-color", "-var-file=environments/prod.tfvars", *given)
    finally:
        terraform.run("workspace", "select", "default")
    assert done.returncode == 1
    assert "The workspace is not this environment's" in " ".join(done.stderr.split())


def test_a_second_plan_is_empty_and_outputs_go_into_dotenv(terraform: Terraform) -> None:
    if terraform.provider == "real":
        pytest.skip("the real provider applies to a real project only: no second plan is taken")
    given = ["-var-file=environments/dev.tfvars", "-no-color", "-input=false"]
    given += [f"-var={name}={value}" for name, value in VARIABLES.items()]
    given += ["-var=alert_email=a@example.com", '-var=impersonators=["group:a@example.com"]']
    done = terraform.run("apply", "-auto-approve", "-var=iam_propagation_seconds=0", *given)
    assert done.returncode == 0, done.stderr
    done = terraform.run("plan", "-detailed-exitcode", *given)
    assert done.returncode == 0, done.stdout
    dotenv = terraform.folder / "dotenv"
    dotenv.write_text(terraform.run("output", "-raw", "dotenv").stdout)
    assert dotenv_values(dotenv) == {
        "GCP_PROJECT_ID": VARIABLES["gcp_project_id"],
        "GCP_REGION": "europe-west9",
        "BQ_DATASET": "bronze_data",
        "GCS_BUCKET_NAME": VARIABLES["gcs_bucket_name"],
    }
    for name, value in dotenv_values(dotenv).items():
        assert terraform.run("output", "-raw", name).stdout == value


@pytest.mark.parametrize(
    ("file", "block"),
    [("variables", "variable"), ("variables_unattended", "variable"), ("outputs", "output")],
)
def test_variables_and_outputs_are_in_order_and_described(file: str, block: str) -> None:
    text = (FOLDER / f"{file}.tf").read_text()
    blocks = re.split(rf'^{block} "', text, flags=re.M)[1:]
    names = [body.split('"')[0] for body in blocks]
    assert names == sorted(names)
    for body in blocks:
        assert re.search(r'^  description = "[A-Za-z].*\."$', body, re.M), body
        assert block == "output" or re.search(r"^  type +=", body, re.M), body


def test_state_locks_and_plugins_stay_out_of_git() -> None:
    if not (PROJECT_FOLDER / ".git").exists():
        pytest.skip("this is no git work tree")
    names = [".terraform.lock.hcl", ".terraform/x", "terraform.tfstate", "x.tfplan"]
    paths = [f"terraform/{name}" for name in names]
    # the tree may be somebody else's
    command = ["git", "-c", "safe.directory=*", "check-ignore", *paths]
    done = subprocess.run(command, cwd=PROJECT_FOLDER, capture_output=True, text=True, check=False)
    assert done.stdout.split() == paths


@pytest.mark.slow
def test_checkov_finds_nothing_that_is_not_answered() -> None:
    uv = [sys.executable, "-m", "uv", "tool", "run", "--from", CHECKOV, "checkov"]
    try:
        subprocess.run([*uv, "--version"], check=True, capture_output=True, timeout=170)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"{CHECKOV} cannot be installed: terraform/ is NOT scanned")
    options = ["--directory", FOLDER, "--framework", "terraform", "--compact", "--quiet"]
    done = subprocess.run(
        [*uv, *options, "--skip-download"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "Failed checks: 0" in done.stdout
