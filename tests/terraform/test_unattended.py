"""What Terraform makes with an image, and that it makes none of it without."""

from __future__ import annotations

import base64
import json
import re
from types import ModuleType
from typing import Any

import pytest

import batch_ingestion
import kpi_report
import near_realtime_ingestion_2
import start_apis_GCP
from ingestion.project import PROJECT_FOLDER
from tests.support.terraform_cli import VARIABLES, Terraform

FOLDER = PROJECT_FOLDER / "terraform"
PROJECT = VARIABLES["gcp_project_id"]
IMAGE = f"europe-west9-docker.pkg.dev/{PROJECT}/fake-store/pipeline@sha256:{'a' * 64}"
GIVEN = {
    "image": IMAGE,
    "alert_email": "a@example.com",
    "billing_account": "0123AB-4567CD-89EF01",
    "report_readers": '["group:a@example.com"]',
}
STAGES = {
    "batch_ingestion.py": batch_ingestion,
    "near_realtime_ingestion_2.py": near_realtime_ingestion_2,
    "kpi_report.py": kpi_report,
}
# each type of resource that there is without an image, and how many of it
WITHOUT_AN_IMAGE = {
    "google_bigquery_dataset": {"layer"},
    "google_bigquery_dataset_iam_member": {"dbt"},
    "google_bigquery_table": {"bronze"},
    "google_bigquery_table_iam_member": {"ingestion", "pubsub_agent"},
    "google_project_iam_member": {"job_user"},
    "google_pubsub_subscription": {"bigquery", "dead_letter", "pull"},
    "google_pubsub_subscription_iam_member": {"pubsub_agent"},
    "google_pubsub_topic": {"dead_letter", "event"},
    "google_pubsub_topic_iam_member": {"ingestion", "pubsub_agent"},
    "google_service_account": {"stage"},
    "google_storage_bucket": {"raw"},
    "google_storage_bucket_iam_member": {"ingestion"},
    "terraform_data": {"iam_propagation"},
}
Plan = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def without(terraform: Terraform) -> Plan:
    return terraform.plan("prod")


@pytest.fixture(scope="module")
def job(terraform: Terraform) -> Plan:
    return terraform.plan("prod", **GIVEN)


@pytest.fixture(scope="module")
def pool(terraform: Terraform) -> Plan:
    return terraform.plan("prod", **GIVEN, poller="pool", poll_interval_seconds="60")


@pytest.fixture(scope="module")
def bare(terraform: Terraform) -> Plan:
    """The plan of dev with an image and nothing else that is optional."""
    return terraform.plan("dev", image=IMAGE)


@pytest.fixture(params=["job", "pool"])
def plan(request: pytest.FixtureRequest) -> Any:
    """The plan of each kind of poller."""
    return request.getfixturevalue(request.param)


def of(plan: Plan, kind: str) -> dict[str, dict[str, Any]]:
    """Return the planned resources of a kind, by their key."""
    found = {re.fullmatch(rf'{re.escape(kind)}\["(.*)"\]', address): address for address in plan}
    return {match[1]: plan[address] for match, address in found.items() if match}


def containers(plan: Plan) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return (template, container) of everything that runs in Cloud Run."""
    found = {}
    for name, planned in of(plan, "google_cloud_run_v2_job.stage").items():
        found[name] = planned["template"][0]["template"][0]
    for name, planned in of(plan, "google_cloud_run_v2_worker_pool.poller").items():
        found[name] = planned["template"][0]
    return {name: (template, template["containers"][0]) for name, template in found.items()}


def flags_of(stage: ModuleType) -> set[str]:
    """Return every flag that a stage takes."""
    actions = stage.build_parser()._actions
    return {option for action in actions for option in action.option_strings}


def test_without_an_image_nothing_of_it_is_made(without: Plan) -> None:
    made: dict[str, set[str]] = {}
    for address in without:
        kind, name = address.partition("[")[0].split(".")
        made.setdefault(kind, set()).add(name)
    assert made == WITHOUT_AN_IMAGE


def test_with_an_image_nothing_that_was_there_changes(without: Plan, plan: Plan) -> None:
    for address, planned in without.items():
        if not address.startswith("google_bigquery_dataset."):
            assert plan[address] == planned


def test_what_runs_in_cloud_run_is_the_image(plan: Plan) -> None:
    running = containers(plan)
    assert running.keys() == {"batch", "dbt", "report", "poller"}
    assert {container["image"] for _, container in running.values()} == {IMAGE}


@pytest.mark.parametrize("poller", ["job", "pool"])
def test_a_second_plan_is_empty_and_each_runs_as_its_own_account(
    terraform: Terraform, poller: str
) -> None:
    if terraform.provider == "real":
        pytest.skip("the real provider applies to a real project only: no second plan is taken")
    variables = {**VARIABLES, **GIVEN, "poller": poller, "iam_propagation_seconds": "0"}
    given = ["-var-file=environments/dev.tfvars", "-no-color", "-input=false"]
    given += [f"-var={name}={value}" for name, value in variables.items()]
    done = terraform.run("apply", "-auto-approve", *given)
    assert done.returncode == 0, done.stderr
    done = terraform.run("plan", "-detailed-exitcode", *given)
    assert done.returncode == 0, done.stdout
    shown = json.loads(terraform.run("show", "-json").stdout)
    made = {r["address"]: r["values"] for r in shown["values"]["root_module"]["resources"]}
    accounts = {
        name: template["service_account"] for name, (template, _) in containers(made).items()
    }
    assert accounts == {
        name: f"fake-store-{name}@{PROJECT}.iam.gserviceaccount.com" for name in accounts
    }
    for clock in of(made, "google_cloud_scheduler_job.clock").values():
        token = clock["http_target"][0]["oauth_token"][0]
        assert token["service_account_email"].startswith("fake-store-scheduler@")
    workflow = of(made, "google_workflows_workflow.daily")["daily"]
    assert "/fake-store-workflow@" in workflow["service_account"]
    state = terraform.run("output", "-raw", "STATE_BUCKET_NAME").stdout
    assert state == f"{PROJECT}-near-realtime-state"
    done = terraform.run("destroy", "-auto-approve", *given)
    assert done.returncode == 0, done.stderr


def test_no_failed_job_is_run_again_by_cloud_run(plan: Plan) -> None:
    jobs = of(plan, "google_cloud_run_v2_job.stage")
    retries = {name: j["template"][0]["template"][0]["max_retries"] for name, j in jobs.items()}
    assert set(retries.values()) == {0}
    for pool in of(plan, "google_cloud_run_v2_worker_pool.poller").values():
        assert pool["scaling"][0]["scaling_mode"] == "MANUAL"
        assert pool["scaling"][0]["manual_instance_count"] == 1


@pytest.mark.parametrize("name", ["batch", "poller", "report"])
def test_every_argument_is_one_that_the_script_takes(
    plan: Plan, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, container = containers(plan)[name]
    python, script = container["command"]
    assert (python, container["working_dir"]) == ("python", "/app")
    for setting in container["env"]:
        monkeypatch.setenv(setting["name"], setting["value"])
    args = STAGES[script].build_parser().parse_args(container["args"])
    assert args.project_id == PROJECT
    if name == "batch":
        tables = {path.stem for path in (FOLDER / "schemas").glob("*_raw.json")}
        assert {f"{entity}_raw" for entity in args.entities} == tables - {"carts_events_raw"}
        assert set(args.entities) == set(batch_ingestion.ENTITIES)
        assert args.dataset_id == "bronze_data"
        assert args.region == "europe-west9"
        assert args.bucket_name == VARIABLES["gcs_bucket_name"]
        assert args.log_json
    if name == "poller":
        assert args.state_bucket == f"{PROJECT}-near-realtime-state"
        assert args.log_json
        assert (args.once, args.poll_interval) in [(True, 300), (False, 60)]
    if name == "report":
        assert args.output == f"gs://{PROJECT}-report/index.html"


def test_settings_of_the_containers_are_those_that_the_code_reads(plan: Plan) -> None:
    sources = [*PROJECT_FOLDER.glob("*.py"), *(PROJECT_FOLDER / "ingestion").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    known = set(re.findall(r'setting\("(\w+)"\)', text))
    for _, container in containers(plan).values():
        assert {setting["name"] for setting in container["env"]} <= known


def test_dbt_builds_in_its_folder_and_retries_what_failed(plan: Plan) -> None:
    _, container = containers(plan)["dbt"]
    assert container["command"] == ["sh", "-c"]
    assert container["args"] == ["dbt build || dbt retry"]
    folder = PROJECT_FOLDER / container["working_dir"].removeprefix("/app/")
    assert (folder / "dbt_project.yml").is_file()
    assert (folder / "profiles.yml").is_file()


def test_the_workflow_starts_the_jobs_with_their_own_arguments(plan: Plan) -> None:
    workflow = of(plan, "google_workflows_workflow.daily")["daily"]
    jobs = json.loads(workflow["user_env_vars"]["JOBS"])
    path = f"projects/{PROJECT}/locations/europe-west9/jobs"
    assert jobs == {
        name: {"name": f"{path}/fake-store-{name}", "args": containers(plan)[name][1]["args"]}
        for name in ("batch", "dbt", "report")
    }
    source = (FOLDER / "workflows/daily.yaml").read_text(encoding="utf-8")
    assert workflow["source_contents"] == source
    assert set(re.findall(r"\$\{jobs\.(\w+)\}", source)) == jobs.keys()


def test_two_clocks_start_the_day_and_the_poller_and_a_pool_needs_one(
    job: Plan, pool: Plan
) -> None:
    started = {
        name: (clock["schedule"], clock["http_target"][0]["uri"])
        for name, clock in of(job, "google_cloud_scheduler_job.clock").items()
    }
    place = f"projects/{PROJECT}/locations/europe-west9"
    executions = "https://workflowexecutions.googleapis.com/v1/{}/workflows/{}/executions"
    run = "https://run.googleapis.com/v2/{}/jobs/{}:run"
    assert started == {
        "daily": ("0 4 * * *", executions.format(place, "fake-store-daily")),
        "poller": ("*/5 * * * *", run.format(place, "fake-store-poller")),
    }
    assert of(pool, "google_cloud_scheduler_job.clock").keys() == {"daily"}
    body = of(job, "google_cloud_scheduler_job.clock")["daily"]["http_target"][0]["body"]
    assert base64.b64decode(body) == b"{}"


def granted(plan: Plan) -> dict[str, set[tuple[str, str, str]]]:
    """Return (role, kind of resource, its name) by account, for the accounts made with an image."""
    found: dict[str, set[tuple[str, str, str]]] = {}
    for address, values in plan.items():
        kind = address.split(".")[0]
        member = re.match(r"serviceAccount:fake-store-(\w+)@", values.get("member") or "")
        if kind.endswith("_iam_member") and member:
            of_kind = ("bucket", "table_id", "dataset_id", "topic", "name", "project")
            name = next(values[key] for key in of_kind if values.get(key))
            resource = kind.removeprefix("google_").removesuffix("_iam_member")
            role = values["role"].removeprefix("roles/")
            found.setdefault(member[1], set()).add((role, resource, name))
    return found


def test_each_account_has_these_roles_on_these_resources_and_no_other(job: Plan) -> None:
    roles = granted(job)
    tables = {"ingestion_runs", *(f"{entity}_raw" for entity in batch_ingestion.ENTITIES)}
    raw = VARIABLES["gcs_bucket_name"]
    assert roles["batch"] == {
        ("storage.objectCreator", "storage_bucket", raw),
        ("storage.objectViewer", "storage_bucket", raw),
        ("bigquery.jobUser", "project", PROJECT),
        *(("bigquery.dataEditor", "bigquery_table", table) for table in tables),
    }
    assert roles["poller"] == {
        ("pubsub.publisher", "pubsub_topic", "carts-events"),
        ("storage.objectUser", "storage_bucket", f"{PROJECT}-near-realtime-state"),
    }
    assert roles["report"] == {
        ("bigquery.dataViewer", "bigquery_dataset", "gold_data"),
        ("bigquery.jobUser", "project", PROJECT),
        ("storage.objectUser", "storage_bucket", f"{PROJECT}-report"),
    }
    assert roles["scheduler"] == {
        ("run.jobsExecutor", "cloud_run_v2_job", "fake-store-poller"),
        ("workflows.invoker", "project", PROJECT),
    }
    assert roles["workflow"] == {
        ("workflows.viewer", "project", PROJECT),
        *(
            (role, "cloud_run_v2_job", f"fake-store-{name}")
            for name in ("batch", "dbt", "report")
            for role in ("run.jobsExecutorWithOverrides", "run.viewer")
        ),
    }


def test_the_readme_names_every_role_of_every_account(job: Plan) -> None:
    section = (FOLDER / "README.md").read_text(encoding="utf-8").split("## Unattended")[1]
    rows = re.findall(r"^\| `fake-store-(\w+)` \|(.*)$", section, re.M)
    told = {name: set(re.findall(r"`([a-z]+\.\w+)`", row)) for name, row in rows}
    for account in ("batch", "poller", "report", "scheduler", "workflow"):
        assert told[account] == {role for role, _, _ in granted(job)[account]}


def test_destroying_takes_no_state_along_where_data_is_protected(job: Plan, bare: Plan) -> None:
    for name in ("state", "report"):
        kept = of(job, f"google_storage_bucket.{name}")[name]
        assert (kept["force_destroy"], kept["deletion_policy"]) == (False, "PREVENT")
        assert kept["public_access_prevention"] == "enforced"
        gone = of(bare, f"google_storage_bucket.{name}")[name]
        assert (gone["force_destroy"], gone["deletion_policy"]) == (True, "DELETE")


def test_no_object_of_the_state_is_deleted_by_age(job: Plan) -> None:
    state = of(job, "google_storage_bucket.state")["state"]
    actions = {rule["action"][0]["type"] for rule in state["lifecycle_rule"]}
    assert actions == {"AbortIncompleteMultipartUpload"}
    assert state["soft_delete_policy"][0]["retention_duration_seconds"] == 7 * 24 * 3600


def test_each_alert_has_an_address_and_a_runbook_of_commands_that_exist(plan: Plan) -> None:
    policies = {
        address: values
        for address, values in plan.items()
        if address.startswith("google_monitoring_alert_policy.")
    }
    told = {address.split('"')[1] for address in policies}
    common = {"crashed", "day_failed", "dead_lettered", "fenced", "waiting"}
    assert told >= common | {"day_missing", "poller_silent"}
    for address, policy in policies.items():
        runbook = policy["documentation"][0]["content"]
        assert len(runbook.split()) >= 15, address
        for script, rest in re.findall(r"python (\S+\.py) (.*)", runbook):
            flags = set(re.findall(r"--[a-z-]+", rest))
            assert flags <= flags_of(STAGES[script]), address


@pytest.mark.parametrize("page", ["docs/unattended.md", "terraform/README.md"])
def test_a_page_on_running_unattended_names_what_there_is(job: Plan, page: str) -> None:
    text = (PROJECT_FOLDER / page).read_text(encoding="utf-8")
    files = "\n".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.tf"))
    made = {str(values.get("name") or values.get("account_id")) for values in job.values()}
    assert set(re.findall(r"`?\b(fake-store-[a-z]+)\b", text)) <= made
    outputs = set(re.findall(r'^output "(\w+)"', files, re.M))
    assert set(re.findall(r"output -raw (\w+)", text)) <= outputs
    variables = set(re.findall(r'^variable "(\w+)"', files, re.M))
    given = re.findall(r"-var=(\w+)=|`(\w+)` in the `\.tfvars`|`(\w+) = [^`]+`", text)
    assert {name for match in given for name in match if name} <= variables
    for script, rest in re.findall(r"python (\S+\.py)([^`|\n#]*)", text):
        stage = {**STAGES, "start_apis_GCP.py": start_apis_GCP}[script]
        assert set(re.findall(r"--[a-z][a-z-]+", rest)) <= flags_of(stage), (script, rest)


def test_absence_is_told_within_what_monitoring_can_look_back_on(plan: Plan) -> None:
    for policy in of(plan, "google_monitoring_alert_policy.absence").values():
        absent = policy["conditions"][0]["condition_absent"][0]
        duration = int(absent["duration"].removesuffix("s"))
        window = int(absent["aggregations"][0]["alignment_period"].removesuffix("s"))
        assert duration <= 23.5 * 3600
        assert duration + window <= 25 * 3600
        assert duration % 60 == window % 60 == 0
    day = of(plan, "google_monitoring_alert_policy.absence")["day_missing"]
    absent = day["conditions"][0]["condition_absent"][0]
    window = int(absent["aggregations"][0]["alignment_period"].removesuffix("s"))
    # a day that is as good as the last one is not missed, one retried for 35 minutes neither
    assert int(absent["duration"].removesuffix("s")) + window >= 24 * 3600 + 35 * 60


def test_alerts_and_charts_look_at_metrics_that_exist(plan: Plan) -> None:
    own = {values["name"] for values in of(plan, "google_logging_metric.line").values()}
    googles = {
        "workflows.googleapis.com/finished_execution_count",
        "run.googleapis.com/job/completed_execution_count",
    }
    texts = json.dumps(plan)
    used = set(re.findall(r'metric\.type = [\\]+"([^"\\]+)', texts))
    of_pubsub = {name for name in used if name.startswith("pubsub.googleapis.com/")}
    assert {name.removeprefix("logging.googleapis.com/user/") for name in used - of_pubsub} <= (
        own | googles
    )
    (dashboard,) = of(plan, "google_monitoring_dashboard.pipeline").values()
    tiles = json.loads(dashboard["dashboard_json"])["mosaicLayout"]["tiles"]
    assert len(tiles) == 8
    assert all(tile["xPos"] + tile["width"] <= 48 for tile in tiles)


def test_a_budget_is_made_for_who_names_a_billing_account(job: Plan, bare: Plan) -> None:
    (budget,) = of(job, "google_billing_budget.month").values()
    assert budget["amount"][0]["specified_amount"][0]["units"] == "20"
    assert "google_billing_budget" not in json.dumps(list(bare))


def test_no_alert_without_an_address(bare: Plan) -> None:
    assert not [address for address in bare if "alert_policy" in address]


def test_the_registry_can_be_made_before_there_is_an_image(
    terraform: Terraform, without: Plan
) -> None:
    early = terraform.plan("prod", registry="true")
    assert early.keys() - without.keys() == {'google_artifact_registry_repository.image["image"]'}


def test_every_service_is_among_the_apis(plan: Plan) -> None:
    services = {
        "google_artifact": "artifactregistry",
        "google_billing": "billingbudgets",
        "google_cloud_run": "run",
        "google_cloud_scheduler": "cloudscheduler",
        "google_logging": "logging",
        "google_workflows": "workflows",
    }
    used = {service for kind, service in services.items() if any(a.startswith(kind) for a in plan)}
    clocks = of(plan, "google_cloud_scheduler_job.clock").values()
    uris = " ".join(clock["http_target"][0]["uri"] for clock in clocks)
    used |= set(re.findall(r"https://(\w+)\.googleapis", uris))
    assert {f"{service}.googleapis.com" for service in used} <= set(start_apis_GCP.UNATTENDED_APIS)
