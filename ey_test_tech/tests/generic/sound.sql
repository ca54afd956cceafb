{#
    Rows that break a rule of their model, with the rule: one query for all rules of a model,
    because BigQuery bills each query for each table that it reads.

    `key` names the columns that are unique together, `never_null` columns, `holds` has
    expressions, of which an unknown (null) counts as not true, and `resolves` names for each
    foreign key the model in which a column of that name has its value.
#}
{% test sound(model, key=[], never_null=[], holds=[], resolves={}) %}
{%- set rules = {} %}
{%- for column in never_null %}
    {%- do rules.update({column ~ ' is null': column ~ ' is null'}) %}
{%- endfor %}
{%- for expression in holds %}
    {%- do rules.update({'not: ' ~ expression: 'not coalesce(' ~ expression ~ ', false)'}) %}
{%- endfor %}
{%- for column, parent in resolves.items() %}
    {%- set values = 'select ' ~ column ~ ' from ' ~ parent ~ ' where ' ~ column ~ ' is not null' %}
    {%- do rules.update({column ~ ' leads nowhere': column ~ ' not in (' ~ values ~ ')'}) %}
{%- endfor %}
{%- set branches = [] %}
{%- for rule, is_broken in rules.items() %}
    {%- do branches.append('when ' ~ is_broken ~ " then '''" ~ rule ~ "'''") %}
{%- endfor %}
with

numbered as (

    select
        *,
        {{ 'count(*) over (partition by ' ~ key | join(', ') ~ ')' if key else 1 }} as rows_of_key
    from {{ model }}

),

judged as (

    select
        *,
        case
            {{ branches | join('\n            ') }}
            when rows_of_key > 1 then 'not unique: {{ key | join(", ") }}'
        end as broken_rule
    from numbered

)

select *
from judged
where broken_rule is not null
{% endtest %}
