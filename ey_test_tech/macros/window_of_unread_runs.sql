{#
    The days {start, end} from the first complete batch run of an entity that this model has not
    read to the last complete run; today where it has read them all. A row without `key` stands
    for a run that has been read.
#}
{% macro window_of_unread_runs(entity, key) %}
    {% if not has_earlier_rows() %}
        {{ return({'start': '0001-01-01', 'end': '9999-12-30'}) }}
    {% endif %}
    {% set unread_runs %}
select
    min(if(read_runs.run_id is null, runs.ingested_date, null)) as first_day,
    max(runs.ingested_date) as last_day
from {{ ref('stg_entity_runs') }} as runs
left join {{ this }} as read_runs
    on runs.run_id = read_runs.run_id
    and read_runs.{{ key }} is null
where
    runs.entity = '{{ entity }}'
    and runs.is_complete
    {% endset %}
    {% set found = run_query(unread_runs)[0] %}
    {{ return({
        'start': (found['first_day'] or today()) | string,
        'end': [today(), (found['last_day'] or today()) | string] | max,
    }) }}
{% endmacro %}
