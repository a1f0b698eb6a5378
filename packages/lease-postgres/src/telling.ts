/** Which clients are notified of what an operation has done. */
import { TOLD } from 'lease-core/adapter'
import {
  byKey,
  countedOf,
  defineText,
  inForce,
  insideOf,
  sameWaiter,
  seesCommits,
  waiting,
  type DatabaseFunction,
} from './function-text.ts'
import { CLIENT_CHANNEL, EVERYONE, HOME_SUFFIX, type Tables } from './schema.ts'
import { live, micros } from './sql.ts'

/** What somebody may have asked to be notified of. */
interface News {
  /** The parameters with the channel of the namespace and the client of the caller. */
  readonly channel: string
  readonly client: string
  /** The queues of `vacated_leases` are notified; with `vacated` all others as well. */
  readonly of: readonly ('queue' | 'vacated' | 'changed' | 'taken')[]
}

/**
 * Notifies those who have asked. A statement of its own, after those that have changed the rows: it sees who has registered up to
 * then. Where nobody has it looks into the index once for each lease, and no more.
 */
export const tell = (tables: Tables, { channel, client, of }: News): string => {
  const has = (kind: (typeof of)[number]): boolean => of.includes(kind)
  const hasQueues = has('queue') || has('vacated')
  const lists = [
    ...(hasQueues ? ['vacated_leases'] : []),
    ...(has('changed') ? ['changed_leases'] : []),
    ...(has('taken') ? ['taken_leases'] : []),
  ]
  const inner = insideOf(tables)
  // Where it cannot be seen who waits, everyone is notified.
  const unseen = `CASE WHEN ${client} IS NULL OR NOT ${seesCommits} THEN vacated_leases END`
  const args = [
    '$1',
    client,
    channel,
    hasQueues ? 'coalesce(queues, vacated_leases)' : 'NULL',
    ...(has('vacated') ? ['vacated_leases', 'vacated_by'] : [has('queue') ? unseen : 'NULL', 'NULL']),
    has('changed') ? 'changed_leases' : 'NULL',
    ...(has('taken') ? ['taken_leases', 'taken_places', 'taken_ms'] : ['NULL', 'NULL', 'NULL']),
  ]
  const others = has('vacated') ? ` OR cardinality(array_remove(vacated_by, NULL)) > 0` : ''
  const counted = `
    IF of_shares THEN
      SELECT array_agg(coalesce(nullif(${countedOf('t.name')}, ''), t.name) ORDER BY t.n) INTO queues
      FROM unnest(vacated_leases) WITH ORDINALITY AS t(name, n);
    END IF;`
  const fits = `
      IF of_shares AND ${client} IS NOT NULL AND ${seesCommits} THEN
        queues := ${fitting(inner).with(['$1', 'queues'])}::text[];
      END IF;`
  return `
  IF ${channel} IS NOT NULL AND (${lists.map((list) => `${list} IS NOT NULL`).join(' OR ')}) THEN${hasQueues ? counted : ''}
    is_asked := ${client} IS NULL${others} OR NOT ${seesCommits};
    IF NOT is_asked THEN
      is_asked := EXISTS (
        SELECT FROM unnest(${lists.join(' || ')}${hasQueues ? ' || queues' : ''} || ''::text) AS t(name) CROSS JOIN LATERAL (
          SELECT FROM ${tables.waiter} w WHERE w.ns = $1 AND w.name = t.name LIMIT 1
        ) w
      );
    END IF;
    IF is_asked THEN${hasQueues ? fits : ''}
      told := json_build_object('n', to_json(vacated_ops), 'told', ${telling(inner).with(args)}::json);
    END IF;
  END IF;`
}

/** What a row is notified in: SQL. */
interface HintOf {
  readonly kind: string
  readonly entry: string
  readonly where?: string
}

/**
 * Sends the notifications, as `changesIn` of lease-core reads them, and answers the last ticket notified in each queue. $1 namespace,
 * $2 client of the caller, $3 channel of the namespace; of leases: $4 whose queue is notified, $5 that were vacated, $6 whose term each
 * of these was, or null; $7 that were changed; $8 that were granted to one who waited, $9 with which ticket, $10 for how many
 * milliseconds: the first in its queue is not notified of that where it is notified that there is room for it.
 *
 * Those who do not count any more are removed where they are met. Without a client, or where this transaction cannot see who has
 * registered since it began, everyone in the namespace is notified.
 *
 * Each kind is looked up by a statement of its own, where there is something of it, and hints that need no grouping are sent one by one: the
 * statement that does all of it takes twice as long, and a hand-off waits for two.
 *
 * The server takes less than 8000 bytes at once; one name is at most 513 in JSON.
 */
export function telling({ prefix, waiter }: Tables): DatabaseFunction {
  const of = (name: string): string => `w.ns = $1 AND w.name = ${name}`
  const all = `SELECT 'vacated' AS kind, to_json(t.name) AS entry FROM unnest($5) AS t(name)
      UNION ALL SELECT 'changed', to_json(t.name) FROM unnest($7) AS t(name)
      UNION ALL SELECT 'taken', json_build_array(t.name, t.place, t.ms) FROM unnest($8, $9, $10) AS t(name, place, ms)`
  const stale = (from: string): string => `EXISTS (SELECT FROM ${from} q WHERE NOT ${inForce('q')})`
  const message = (kind: string, entries: string): string =>
    `CASE ${kind} WHEN 'vacated' THEN ${entries} ELSE json_build_object(CASE ${kind} WHEN 'told' THEN 'vacated' ELSE ${kind} END, ${entries}) END::text`
  // Adds to what is notified: a hint for each row, to its client. Then whether one of the rows does not count any more.
  const hints = (row: string, { kind, entry, where = 'true' }: HintOf): string =>
    [
      ...[`'${CLIENT_CHANNEL}' || ${row}.client`, `${kind}::text`, entry].map(
        (value, index) => `${['channels', 'kinds', 'entries'][index]} || array_agg(${value}) FILTER (WHERE ${where})`,
      ),
      `is_stale OR coalesce(bool_or(NOT ${inForce(row)}), false)`,
    ].join(', ')
  return defineText(
    { prefix },
    'tell',
    ['text', 'text', 'text', 'text[]', 'text[]', 'text[]', 'text[]', 'text[]', 'bigint[]', 'bigint[]'],
    `DECLARE
  channels text[];
  kinds text[];
  entries json[];
  places json;
  is_stale boolean;
  is_watched boolean;
BEGIN
  IF $2 IS NULL OR NOT ${seesCommits} THEN
    SELECT array_agg('${EVERYONE}' || substr($3, ${EVERYONE.length + 1}) || '${HOME_SUFFIX}'), array_agg(a.kind), array_agg(a.entry)
    INTO channels, kinds, entries FROM (${all}) a;
  ELSE
    FOR attempt IN 1..2 LOOP
      channels := NULL; kinds := NULL; entries := NULL; is_stale := false;
      IF $4 IS NOT NULL THEN
        WITH queue AS MATERIALIZED (
          SELECT t.n, t.name, w.* FROM unnest($4) WITH ORDINALITY AS t(name, n) LEFT JOIN LATERAL (
            SELECT w.place, w.client, w.until, row_number() OVER (ORDER BY w.place) - 1 AS ahead FROM (
              SELECT w.* FROM ${waiter} w WHERE ${of('t.name')} AND w.place > 0 ORDER BY w.place LIMIT ${TOLD}
            ) w
          ) w ON true
        )
        SELECT ${hints('w', { kind: `'told'`, entry: 'json_build_array(w.name, w.place, w.ahead)', where: 'w.place IS NOT NULL' })},
          (SELECT json_agg(t.place ORDER BY t.n) FROM (SELECT q.n, max(q.place) AS place FROM queue q GROUP BY q.n) t)
        INTO channels, kinds, entries, is_stale, places FROM queue w;
      END IF;
      IF $8 IS NOT NULL THEN
        SELECT ${hints('w', { kind: `'taken'`, entry: 'json_build_array(t.name, t.taken, t.ms, w.place, 0)' })}
        INTO channels, kinds, entries, is_stale FROM unnest($8, $9, $10) AS t(name, taken, ms) CROSS JOIN LATERAL (
          SELECT w.place, w.client, w.until FROM ${waiter} w WHERE ${of('t.name')} AND w.place > 0 ORDER BY w.place LIMIT 1
        ) w WHERE NOT coalesce(t.name = ANY($4), false);
      END IF;
      is_watched := EXISTS (
        SELECT FROM unnest($5 || $7 || ''::text) AS t(name) CROSS JOIN LATERAL (
          SELECT FROM ${waiter} w WHERE ${of('t.name')} AND w.place = 0 LIMIT 1
        ) w
      );
      IF is_watched OR cardinality(array_remove($6, NULL)) > 0 THEN
        WITH watch AS MATERIALIZED (
          SELECT t.*, w.* FROM (
            SELECT 'vacated' AS kind, v.name FROM unnest($5) AS v(name) UNION ALL SELECT 'changed', c.name FROM unnest($7) AS c(name)
          ) t CROSS JOIN LATERAL (
            SELECT w.client, w.until FROM ${waiter} w WHERE ${of('t.name')} AND w.place = 0 OFFSET 0
          ) w
        ), space AS MATERIALIZED (
          SELECT w.until FROM ${waiter} w WHERE ${of("''")} AND w.place = 0
        ), hint AS (
          SELECT '${CLIENT_CHANNEL}' || q.client AS channel, q.kind, to_json(q.name) AS entry FROM watch q
          UNION ALL SELECT '${CLIENT_CHANNEL}' || t.ended, 'vacated', to_json(t.name) FROM unnest($5, $6) AS t(name, ended)
            WHERE t.ended IS NOT NULL
          UNION ALL SELECT $3 || '${HOME_SUFFIX}', a.kind, a.entry FROM (${all}) a WHERE EXISTS (SELECT FROM space)
        )
        SELECT channels || array_agg(h.channel), kinds || array_agg(h.kind), entries || array_agg(h.entry),
          is_stale OR ${stale('watch')} OR ${stale('space')}
        INTO channels, kinds, entries, is_stale FROM hint h;
      END IF;
      EXIT WHEN NOT is_stale;
      DELETE FROM ${waiter} w USING (
        SELECT w.* FROM (SELECT DISTINCT t.name FROM unnest($4 || $5 || $7 || $8 || ''::text) AS t(name)) t CROSS JOIN LATERAL (
          SELECT w.* FROM ${waiter} w WHERE ${of('t.name')} AND NOT ${inForce('w')} FOR UPDATE SKIP LOCKED
        ) w
      ) r WHERE ${sameWaiter};
    END LOOP;
  END IF;
  IF channels IS NULL OR NOT has_function_privilege('pg_notify(text, text)', 'EXECUTE') THEN RETURN places; END IF;
  IF cardinality(channels) = 1 OR cardinality(channels) = 2 AND channels[1] <> channels[2] THEN
    FOR nth IN 1..cardinality(channels) LOOP
      PERFORM pg_notify(channels[nth], ${message('kinds[nth]', 'json_build_array(entries[nth])')});
    END LOOP;
  ELSE
    PERFORM pg_notify(part.channel, ${message('part.kind', 'json_agg(part.entry)')})
    FROM (
      SELECT h.*, sum(octet_length(h.entry::text) + 2) OVER (PARTITION BY h.channel, h.kind ROWS UNBOUNDED PRECEDING) / 6000 AS nth
      FROM unnest(channels, kinds, entries) AS h(channel, kind, entry)
    ) part GROUP BY part.channel, part.kind, part.nth;
  END IF;
  RETURN places;
END`,
    byKey,
  )
}

/**
 * Of these queues, those to be notified of a vacancy; null in the place of the others: a counted lease without room for the first that waits.
 * $1 namespace, $2 leases and counted leases. Something has just ended.
 *
 * What two transactions at once have freed, neither of them sees. So where another one may be ending a share as well
 * (`entering`), the queue is notified in any case.
 */
export function fitting({ prefix, lease, waiter, counts }: Tables): DatabaseFunction {
  const shares = (weight: string): string =>
    `SELECT sum(l.weight) FROM ${lease} l WHERE l.ns = $1 AND ${countedOf('l.name')} = t.name AND l.weight ${weight}`
  return defineText(
    { prefix },
    'fitting',
    ['text', 'text[]'],
    `DECLARE
  alone text[];
BEGIN
  SELECT array_agg(t.name) INTO alone FROM unnest($2) AS t(name) CROSS JOIN LATERAL (
    SELECT FROM ${counts} c WHERE c.ns = $1 AND c.name = t.name FOR NO KEY UPDATE SKIP LOCKED
  ) c;
  RETURN (
    SELECT array_agg(CASE WHEN strpos(t.name, '#') = 0 THEN t.name ELSE (
      SELECT t.name FROM ${counts} c CROSS JOIN LATERAL (
        SELECT coalesce(w.weight, 1) AS weight FROM ${waiter} w WHERE ${waiting('t.name')} ORDER BY w.place LIMIT 1
      ) w
      WHERE c.ns = $1 AND c.name = t.name AND c.capacity IS NOT NULL AND CASE
        WHEN t.name = ANY(alone) IS NOT TRUE OR c.used + w.weight <= c.capacity THEN true
        ELSE c.used + w.weight <= c.capacity - coalesce((${shares('< 0')}), 0)
          + CASE WHEN c.sweep > ${micros} THEN 0 ELSE coalesce((${shares(`> 0 AND NOT ${live('l')}`)}), 0) END
      END
    ) END ORDER BY t.n)::text FROM unnest($2) WITH ORDINALITY AS t(name, n)
  );
END`,
    byKey,
  )
}
