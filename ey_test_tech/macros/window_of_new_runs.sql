{#
    The days {start, end} of the batch runs that the manifest has as loaded and this model has not
    as complete, however old; today where there is none. A run whose records are not all in bronze
    is looked at again until it is deliverable_days old.
#}
{% macro window_of_new_runs(entities) %}
    {% if not has_earlier_rows() %}
        {{ return({'start': '0001-01-01', 'end': '9999-12-30'}) }}
    {% endif %}
    {% set new_runs %}
select
    min(date(runs.started_at)) as first_day,
    max(date(runs.started_at)) as last_day
from {{ ref('stg_ingestion_runs') }} as runs
left join {{ this }} as known
    on runs.run_id = known.run_id
    and runs.entity = known.entity
where
    runs.status = 'loaded'
    and runs.entity in ('{{ entities | join("', '") }}')
    and (
        known.run_id is null
        or (
            not known.is_complete
            and known.ingested_date > date '{{ days_before(today(), var("deliverable_days")) }}'
        )
    )
    {% endset %}
    {% set found = run_query(new_runs)[0] %}
    {{ return({
        'start': (found['first_day'] or today()) | string,
        'end': (found['last_day'] or today()) | string,
    }) }}
{% endmacro %}
