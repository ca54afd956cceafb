{#
    The versions of an entity's records, found by comparing each complete batch run with the one
    before: one row per record and moment at which a tracked attribute changed, or at which the
    record left the source (is_listed false) or came back.

    A run that is failed or incomplete is not seen at all, and only a run that lost nothing on
    the way, and is not far smaller than the one before (int_believed_runs), says that a record is
    gone.

    The history has a row without a record for each run that it has read. The first day with a
    complete run that it has not read, however late that run came, is the day from which on all
    runs are read again; what began before is carried over, and the last version of each record is
    what the first of these runs is compared with.
#}
{% macro history_of(entity, key, attributes) %}
{%- set window = window_of_unread_runs(entity, key) -%}
{%- set columns = [key] + attributes -%}
-- days {{ window.start }} to {{ window.end }}

with

window_runs as (

    select
        run_id,
        observed_at,
        ingested_date,
        shows_absence,
        min(if(shows_absence, observed_at, null)) over (
            order by observed_at, run_id
            rows between 1 following and unbounded following
        ) as next_absence_at
    from {{ ref('int_believed_runs') }}
    where
        {{ in_window('ingested_date', window) }}
        and entity = '{{ entity }}'
        and is_complete

),
records as (

    {{ records_of(entity, key, window) | indent(4) }}

),
{% if has_earlier_rows() %}
carried as (

    select *
    from {{ this }}
    where changed_at < timestamp '{{ window.start }}'

),
{% endif %}
observations as (

    select
        records.{{ columns | join(',\n        records.') }},
        true as is_listed,
        records.observed_at as changed_at,
        records.run_id,
        window_runs.next_absence_at,
        false as is_carried
    from records
    inner join window_runs
        on records.run_id = window_runs.run_id
    {%- if has_earlier_rows() %}
    union all
    select
        {{ columns | join(',\n        ') }},
        is_listed,
        changed_at,
        run_id,
        (select min(observed_at) from window_runs where shows_absence) as next_absence_at,
        true as is_carried
    from carried
    where {{ key }} is not null
    qualify row_number() over (partition by {{ key }} order by changed_at desc, run_id desc) = 1
    {%- endif %}

),

followed as (

    select
        *,
        lead(changed_at) over (
            partition by {{ key }} order by changed_at, run_id
        ) as next_seen_at
    from observations

),

absences as (

    select
        observed_at,
        min(run_id) as run_id
    from window_runs
    where shows_absence
    group by observed_at

),

departures as (

    select
        followed.{{ columns | join(',\n        followed.') }},
        false as is_listed,
        absences.observed_at as changed_at,
        absences.run_id,
        false as is_carried
    from followed
    inner join absences
        on followed.next_absence_at = absences.observed_at
    where
        followed.is_listed
        and followed.next_absence_at < coalesce(followed.next_seen_at, timestamp '9999-12-31')

),

moments as (

    select
        {{ columns | join(',\n        ') }},
        is_listed,
        changed_at,
        run_id,
        is_carried
    from observations
    union all
    select
        {{ columns | join(',\n        ') }},
        is_listed,
        changed_at,
        run_id,
        is_carried
    from departures

),

compared as (

    select
        *,
        to_json_string(struct({{ attributes | join(', ') }}, is_listed)) as fingerprint,
        lag(to_json_string(struct({{ attributes | join(', ') }}, is_listed))) over (
            partition by {{ key }} order by changed_at, run_id
        ) as fingerprint_before
    from moments

),

versions as (

    select
        {{ columns | join(',\n        ') }},
        is_listed,
        changed_at,
        run_id
    from compared
    where
        not is_carried
        and fingerprint is distinct from fingerprint_before

)

select * from versions
union all
select
    cast(null as int64) as {{ key }},
    {%- for attribute in attributes %}
    cast(null as {{ 'numeric' if attribute == 'price' else 'string' }}) as {{ attribute }},
    {%- endfor %}
    cast(null as bool) as is_listed,
    observed_at as changed_at,
    run_id
from window_runs
{%- if has_earlier_rows() %}
union all
select * from carried
{%- endif %}
{%- endmacro %}
