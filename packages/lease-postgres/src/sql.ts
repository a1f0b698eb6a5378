/**
 * Every statement, as a function of the quoted table names. Each is one autocommitted transaction with one row per
 * operation, so that a batch costs one round trip and one fsync.
 *
 * Rules they share, and why:
 *
 * - *`clock_timestamp()`, never `now()`*, which stands still in a transaction: a lease would be granted partly used.
 * - *Takeover locks with FOR UPDATE first* (claim, expire, collect). A guard holds FOR KEY SHARE until its transaction
 *   ends; a plain UPDATE would pass it, and a guard with an older snapshot would still say yes to a displaced holder.
 * - *Whoever takes over never waits* (SKIP LOCKED): a row locked by a guard or a rival makes `contended`, and one
 *   guarded lease does not delay the rest of the batch.
 * - *Extension, release and pins wait*, and lock FOR NO KEY UPDATE, which passes guards. Rivals lock a row only for
 *   the length of a statement; a release that skipped would be lost. Locks are taken in the order of names, so that
 *   overlapping batches do not deadlock.
 * - *Vacating by a plain UPDATE is safe*: it is the next claim that must get past the guards.
 *
 * - *Rows are looked up one by one by their key* (LATERAL, and joins that the planner thinks small). It would rather scan
 *   the namespace as long as the table has never been analyzed, or was when it was small.
 *
 * A row is *live* when it has a holder and is pinned or not past its expiry; otherwise the lease is vacant. The guard,
 * the pins and the claim all look at, and lock, this one row.
 */
import type { Tables } from './schema.ts'

/** All statements over one pair of tables. */
export interface Statements {
  readonly claim: string
  /** Tells watchers as well. Most claims and extensions do without, and their statements are the shorter for it. */
  readonly claimAnnounced: string
  /** For those who wait, and stand in line meanwhile. */
  readonly claimInLine: string
  readonly claimAny: string
  readonly extend: string
  readonly extendAnnounced: string
  readonly release: string
  readonly expire: string
  readonly pin: string
  readonly unpin: string
  readonly read: string
  readonly readAll: string
  readonly pinned: string
  readonly inspect: string
}

/** @param prepared whether they are to be prepared: then they are written so that the server keeps their plans */
export function statements(tables: Tables, { prepared }: { readonly prepared: boolean }): Statements {
  const all: Statements = {
    claim: claimSql(tables, { announced: false }),
    claimAnnounced: claimSql(tables, { announced: true }),
    claimInLine: claimInLineSql(tables),
    claimAny: claimAnySql(tables),
    extend: extendSql(tables, { announced: false }),
    extendAnnounced: extendSql(tables, { announced: true }),
    release: releaseSql(tables),
    expire: expireSql(tables),
    pin: pinSql(tables),
    unpin: unpinSql(tables),
    read: readSql(tables),
    readAll: readAllSql(tables),
    pinned: pinnedSql(tables),
    inspect: inspectSql(tables),
  }
  if (!prepared) return all
  return Object.fromEntries(Object.entries(all).map(([kind, text]) => [kind, withLastingPlan(text)])) as never
}

/**
 * A prepared statement is planned anew, each time and for longer than it runs, as long as a plan made for the parameters
 * at hand looks cheaper than one for any. It always would: an array of one is expected to bring one row, an array not
 * known yet ten. Behind a subquery no array is known, both plans cost the same, and after five times the server keeps one.
 */
function withLastingPlan(text: string): string {
  return text.replaceAll(/\bunnest\(([^()]+)\)/g, (_, arrays: string) => {
    const hidden = arrays.split(', ').map((array) => `(SELECT ${array})`)
    return `unnest(${hidden.join(', ')})`
  })
}

const live = `(l.holder IS NOT NULL AND (l.pins <> '{}' OR l.expiry > clock_timestamp()))`
const lapsed = `(l.holder IS NOT NULL AND l.pins = '{}' AND l.expiry <= clock_timestamp())`
const granted = `clock_timestamp() + r.ms * interval '1 millisecond'`
const micros = `floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`
const vacated = `holder = NULL, nonce = NULL, value = NULL`

/** A token for a row that is not there: above the server's clock of all earlier rows, and above the floor. */
const firstToken = ({ floor }: Tables): string =>
  `greatest(${micros}, (SELECT f.token + 1 FROM ${floor} f WHERE f.ns = $1))`

/** What is known of the lease after the statement (`Row` in postgres-substrate.ts): from `first` if it has it, else `second`. */
const state = (first: string, second?: string): string => {
  const column = (name: string): string =>
    second === undefined
      ? `${first}.${name}`
      : `CASE WHEN ${first}.n IS NULL THEN ${second}.${name} ELSE ${first}.${name} END`
  return `${column('holder')} AS holder, (${column('token')})::text AS token,
  extract(epoch FROM (${column('expiry')}) - clock_timestamp())::float8 * 1000 AS remaining,
  ${column('value')} AS value, (${column('pins')}) <> '{}' AS pinned`
}

const returning = 'l.holder, l.token, l.expiry, l.value, l.pins'

/** What a refusal tells: the row as this statement's snapshot has it. OFFSET 0 keeps the planner from joining otherwise. */
const current = ({ lease }: Tables): string => `cur AS MATERIALIZED (
  SELECT r.n, l.* FROM req r CROSS JOIN LATERAL (
    SELECT ${returning}, l.nonce FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name OFFSET 0
  ) l
)`

/** The rows that meet the condition, locked one by one in the order of `req`. */
const locked = ({ lease }: Tables, condition: string, lock: string, columns = ''): string => `lk AS MATERIALIZED (
  SELECT r.n, l.* FROM req r CROSS JOIN LATERAL (
    SELECT l.name${columns} FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name AND (${condition}) ${lock}
  ) l
)`

/** Joined on two columns although one would do: the planner then expects few rows and looks each up by its key. */
const lockedRows = 'lk JOIN req r ON r.n = lk.n AND r.name = lk.name'

/** What is told of each name in these, in the words of listener.ts. */
const payloads = {
  gone: 'json_agg(part.name)',
  news: `json_build_object('changed', json_agg(part.name))`,
  passed: `json_build_object('taken', json_agg(json_build_array(part.name, part.place, ceil(part.ms))))`,
}

/**
 * Tells of the names in `gone`, `news` or `passed`. One message per 6 kB of names: the server takes less than 8000 bytes,
 * a name is at most 513 in JSON, and what comes with it 30.
 */
const notify = (channel: string, names: keyof typeof payloads = 'gone', as: string = 'note'): string =>
  `${as} AS MATERIALIZED (
  SELECT pg_notify(${channel}, ${payloads[names]}::text)
  FROM (SELECT *, sum(octet_length(to_json(name)::text) + 32) OVER (ORDER BY name) / 6000 AS nth FROM ${names}) part
  WHERE ${channel}::text IS NOT NULL GROUP BY part.nth
)`
const notes = '(SELECT count(*) FROM note) AS notes'

/** Opens a term on each lease of `req` that is vacant or lapsed and meets the condition: `won`. Needs `cur`. */
const takenWhere = (
  tables: Tables,
  condition: string,
): string => `${locked(tables, `(l.holder IS NULL OR ${lapsed}) AND ${condition}`, 'FOR UPDATE SKIP LOCKED')}, up AS (
  UPDATE ${tables.lease} l SET holder = r.holder, nonce = r.nonce, value = r.value, expiry = ${granted},
    token = greatest(l.token + 1, ${micros})
  FROM ${lockedRows} WHERE l.ns = $1 AND l.name = lk.name
  RETURNING l.name, ${returning}
), ins AS (
  INSERT INTO ${tables.lease} AS l (ns, name, holder, nonce, value, expiry, token)
  SELECT $1, r.name, r.holder, r.nonce, r.value, ${granted}, ${firstToken(tables)}
  FROM req r WHERE NOT EXISTS (SELECT FROM cur WHERE cur.n = r.n) AND ${condition} ORDER BY r.name COLLATE "C"
  ON CONFLICT (ns, name) DO NOTHING
  RETURNING l.name, ${returning}
), won AS (
  SELECT r.n, w.* FROM (SELECT * FROM up UNION ALL SELECT * FROM ins) w JOIN req r USING (name)
)`

/**
 * $1 namespace, $2 names, $3 holders, $4 nonces, $5 milliseconds, $6 values; announced: $7 whether to tell, $8 channel or
 * null.
 *
 * `INSERT .. ON CONFLICT DO UPDATE .. WHERE` would be shorter, but it locks the row before it looks at the condition:
 * a contender for a live lease would hang behind the holder's guarded transaction.
 *
 * A replay (same holder and nonce, still live) needs no write: its term began after the call did, with the duration
 * that the call asked for. `mine` tells it.
 */
function claimSql(tables: Tables, { announced }: { readonly announced: boolean }): string {
  const news = `, news AS (SELECT r.name FROM won JOIN req r USING (n) WHERE r.announce), ${notify('$8', 'news')}`
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[], $6::text[]${announced ? ', $7::boolean[]' : ''})
    WITH ORDINALITY AS t(name, holder, nonce, ms, value${announced ? ', announce' : ''}, n) ORDER BY name COLLATE "C"
), ${current(tables)}, ${takenWhere(tables, 'true')}${announced ? news : ''}
SELECT r.n::int, won.n IS NOT NULL AS done, ${state('won', 'cur')},
  won.n IS NULL AND cur.holder = r.holder AND cur.nonce = r.nonce AS mine${announced ? `, ${notes}` : ''}
FROM req r LEFT JOIN won USING (n) LEFT JOIN cur USING (n)`
}

/**
 * Parameters as of an announced claim, with the places ahead of the channel: $8 places, 0 for none, $9 channel or null.
 *
 * Who has no place does not get past those who have one: `barred`. He gets one with every refusal, but not when somebody
 * is just at the row (`contended`), for then he asks again. Leases are locked before lines, by everyone.
 */
function claimInLineSql(tables: Tables): string {
  const { line } = tables
  const forgotten = (q: string): string => `${q}.at < clock_timestamp() - interval '10 minutes'`
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::boolean[], $8::int[])
    WITH ORDINALITY AS t(name, holder, nonce, ms, value, announce, place, n) ORDER BY name COLLATE "C"
), stand AS MATERIALIZED (
  SELECT r.n, q.last, q.served FROM req r CROSS JOIN LATERAL (
    SELECT q.last, q.served FROM ${line} q WHERE q.ns = $1 AND q.name = r.name AND NOT ${forgotten('q')} OFFSET 0
  ) q
), barred AS MATERIALIZED (
  SELECT r.n FROM req r JOIN stand USING (n) WHERE r.place = 0 AND stand.served < stand.last
), ${current(tables)}, ${takenWhere(tables, 'NOT EXISTS (SELECT FROM barred WHERE barred.n = r.n)')}, lined AS (
  INSERT INTO ${line} AS q (ns, name, last, served, at)
  SELECT $1, r.name, 1, 0, clock_timestamp() FROM req r LEFT JOIN cur l USING (n)
  WHERE r.place = 0 AND NOT EXISTS (SELECT FROM won WHERE won.n = r.n)
    AND (${live} AND NOT (l.holder = r.holder AND l.nonce = r.nonce) OR EXISTS (SELECT FROM barred WHERE barred.n = r.n))
  ORDER BY r.name COLLATE "C"
  ON CONFLICT (ns, name) DO UPDATE SET at = excluded.at,
    last = CASE WHEN ${forgotten('q')} THEN 1 ELSE q.last + 1 END,
    served = CASE WHEN ${forgotten('q')} THEN 0 ELSE q.served END
  RETURNING q.name, q.last, q.served
), passed AS (
  SELECT r.n, r.name, r.place, r.ms FROM won JOIN req r USING (n) WHERE r.place > 0
), served AS (
  UPDATE ${line} q SET served = greatest(q.served, p.place) FROM passed p JOIN stand USING (n)
  WHERE q.ns = $1 AND q.name = p.name AND stand.last > p.place
), ended AS (
  DELETE FROM ${line} q USING passed p JOIN stand USING (n)
  WHERE q.ns = $1 AND q.name = p.name AND stand.last <= p.place AND q.last <= p.place
), news AS (SELECT r.name FROM won JOIN req r USING (n) WHERE r.announce
), ${notify('$9', 'news')}, ${notify('$9', 'passed', 'note_passed')}
SELECT r.n::int, won.n IS NOT NULL AS done, ${state('won', 'cur')},
  won.n IS NULL AND cur.holder = r.holder AND cur.nonce = r.nonce AS mine,
  CASE WHEN r.place = 0 THEN lined.last WHEN ${live.replaceAll('l.', 'cur.')} THEN r.place END AS place,
  CASE WHEN r.place = 0 THEN lined.served ELSE coalesce(stand.served, r.place) END AS served,
  (SELECT count(*) FROM note_passed) AS notes_passed, ${notes}
FROM req r LEFT JOIN won USING (n) LEFT JOIN cur USING (n) LEFT JOIN stand USING (n) LEFT JOIN lined ON lined.name = r.name`
}

/**
 * $1 namespace, $2 names, $3 holder, $4 nonce, $5 milliseconds, $6 value, $7 channel or null.
 *
 * One row is locked and taken, the first that is vacant or lapsed and that nobody else is at; where there is none, one of
 * the names without a row gets its own. Nothing is taken where this holder has one already: `mine`, and `replay` if it is
 * by this very claim.
 */
function claimAnySql(tables: Tables): string {
  const { lease } = tables
  const free = `l.holder IS NULL OR ${lapsed}`
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[]) WITH ORDINALITY AS t(name, n)
), ${current(tables)}, own AS MATERIALIZED (
  SELECT l.n, l.nonce = $4 AS replay FROM cur l WHERE l.holder = $3 AND ${live} ORDER BY l.n LIMIT 1
), lk AS MATERIALIZED (
  SELECT r.n, l.name FROM req r CROSS JOIN LATERAL (
    SELECT l.name FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name AND (${free}) FOR UPDATE SKIP LOCKED
  ) l WHERE NOT EXISTS (SELECT FROM own) LIMIT 1
), up AS (
  UPDATE ${lease} l SET holder = $3, nonce = $4, value = $6,
    expiry = clock_timestamp() + $5::float8 * interval '1 millisecond', token = greatest(l.token + 1, ${micros})
  FROM lk WHERE l.ns = $1 AND l.name = lk.name
  RETURNING l.name, ${returning}
), ins AS (
  INSERT INTO ${lease} AS l (ns, name, holder, nonce, value, expiry, token)
  SELECT $1, r.name, $3, $4, $6, clock_timestamp() + $5::float8 * interval '1 millisecond', ${firstToken(tables)}
  FROM req r WHERE NOT EXISTS (SELECT FROM cur WHERE cur.n = r.n)
    AND NOT EXISTS (SELECT FROM lk) AND NOT EXISTS (SELECT FROM own) ORDER BY r.n LIMIT 1
  ON CONFLICT (ns, name) DO NOTHING
  RETURNING l.name, ${returning}
), won AS (
  SELECT r.n, w.* FROM (SELECT * FROM up UNION ALL SELECT * FROM ins) w JOIN req r USING (name)
), news AS (SELECT won.name FROM won), ${notify('$7', 'news')}
SELECT r.n::int, won.n IS NOT NULL AS done, ${state('won', 'cur')}, own.n IS NOT NULL AS mine,
  own.replay, ${notes}
FROM req r LEFT JOIN won USING (n) LEFT JOIN cur USING (n) LEFT JOIN own USING (n)`
}

/**
 * $1 namespace, $2 names, $3 holders, $4 tokens or null, $5 milliseconds, $6 values or null; announced: $7 whether to
 * tell, $8 channel or null.
 */
function extendSql(tables: Tables, { announced }: { readonly announced: boolean }): string {
  const { lease } = tables
  const news = `, news AS (
  SELECT r.name FROM up JOIN req r USING (n) JOIN cur USING (n) WHERE r.announce AND up.value IS DISTINCT FROM cur.value
), ${notify('$8', 'news')}`
  const matches = `l.holder = r.holder AND (r.token IS NULL OR l.token = r.token) AND ${live}`
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::float8[], $6::text[]${announced ? ', $7::boolean[]' : ''})
    WITH ORDINALITY AS t(name, holder, token, ms, value${announced ? ', announce' : ''}, n) ORDER BY name COLLATE "C"
), ${current(tables)}, ${locked(tables, matches, 'FOR NO KEY UPDATE')}, up AS (
  UPDATE ${lease} l SET expiry = greatest(l.expiry, ${granted}), value = coalesce(r.value, l.value)
  FROM ${lockedRows} WHERE l.ns = $1 AND l.name = lk.name AND ${matches}
  RETURNING r.n, ${returning}
)${announced ? news : ''}
SELECT r.n::int, up.n IS NOT NULL AS done, ${state('up', 'cur')},
  up.n IS NULL AND cur.holder = r.holder AND (r.token IS NULL OR cur.token = r.token) AS mine${announced ? `, ${notes}` : ''}
FROM req r LEFT JOIN up USING (n) LEFT JOIN cur USING (n)`
}

/**
 * $1 namespace, $2 names, $3 holders, $4 tokens or null, $5 nonces or null, $6 channel or null.
 *
 * With a nonce the row is locked whatever this snapshot shows in it: the claim given up may be about to commit. `hit`
 * is then computed from the row as it was locked; a condition in the UPDATE would look at the snapshot first.
 */
function releaseSql(tables: Tables): string {
  const { lease } = tables
  const matches = `l.holder = r.holder AND (r.token IS NULL OR l.token = r.token) AND (r.nonce IS NULL OR l.nonce = r.nonce)`
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[])
    WITH ORDINALITY AS t(name, holder, token, nonce, n) ORDER BY name COLLATE "C"
), ${current(tables)}, ${locked(tables, `r.nonce IS NOT NULL OR (${matches})`, 'FOR NO KEY UPDATE', `, (${matches}) AS hit`)}, gone AS (
  UPDATE ${lease} l SET ${vacated}, expiry = least(l.expiry, clock_timestamp())
  FROM ${lockedRows} WHERE lk.hit AND l.ns = $1 AND l.name = lk.name
  RETURNING lk.n, l.name
), ${notify('$6')}
SELECT r.n::int, gone.n IS NOT NULL AS done, ${state('cur')},
  gone.n IS NULL AND cur.holder = r.holder AND (r.token IS NULL OR cur.token = r.token)
    AND (r.nonce IS NULL OR cur.nonce = r.nonce) AS mine, ${notes}
FROM req r LEFT JOIN gone USING (n) LEFT JOIN cur USING (n)`
}

/** $1 namespace, $2 names, $3 channel or null. */
function expireSql(tables: Tables): string {
  const { lease } = tables
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[]) WITH ORDINALITY AS t(name, n) ORDER BY name COLLATE "C"
), ${current(tables)}, ${locked(tables, lapsed, 'FOR UPDATE SKIP LOCKED')}, gone AS (
  UPDATE ${lease} l SET ${vacated} FROM ${lockedRows} WHERE l.ns = $1 AND l.name = lk.name
  RETURNING lk.n, l.name
), ${notify('$3')}
SELECT r.n::int, gone.n IS NOT NULL AS done, ${state('cur')},
  ${notes}
FROM req r LEFT JOIN gone USING (n) LEFT JOIN cur USING (n)`
}

/**
 * $1 namespace, $2 names, $3 entities. A lapsed lease is vacant, and a pin must not bring its holder back: the row is
 * vacated in the same step.
 */
function pinSql(tables: Tables): string {
  const { lease } = tables
  const unlessLapsed = (column: string): string => `${column} = CASE WHEN ${lapsed} THEN NULL ELSE l.${column} END`
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS t(name, entity, n) ORDER BY name COLLATE "C"
), up AS (
  INSERT INTO ${lease} AS l (ns, name, token, expiry, pins)
  SELECT $1, r.name, ${firstToken(tables)}, clock_timestamp(), ARRAY[r.entity] FROM req r ORDER BY r.name COLLATE "C"
  ON CONFLICT (ns, name) DO UPDATE SET
    ${unlessLapsed('holder')}, ${unlessLapsed('nonce')}, ${unlessLapsed('value')},
    pins = CASE WHEN excluded.pins <@ l.pins THEN l.pins ELSE l.pins || excluded.pins END
  RETURNING l.name, ${returning}
), done AS (
  SELECT r.n, up.* FROM up JOIN req r USING (name)
)
SELECT r.n::int, true AS done, ${state('done')} FROM req r LEFT JOIN done USING (n)`
}

/** $1 namespace, $2 names, $3 entities, $4 channel or null. The last pin gone past the expiry: vacated. */
function unpinSql(tables: Tables): string {
  const { lease } = tables
  const freed = `(array_remove(l.pins, r.entity) = '{}' AND l.expiry <= clock_timestamp())`
  const unlessFreed = (column: string): string => `${column} = CASE WHEN ${freed} THEN NULL ELSE l.${column} END`
  return `WITH req AS MATERIALIZED (
  SELECT * FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS t(name, entity, n) ORDER BY name COLLATE "C"
), ${current(tables)}, ${locked(tables, 'r.entity = ANY(l.pins)', 'FOR NO KEY UPDATE')}, up AS (
  UPDATE ${lease} l SET pins = array_remove(l.pins, r.entity),
    ${unlessFreed('holder')}, ${unlessFreed('nonce')}, ${unlessFreed('value')}
  FROM ${lockedRows} WHERE l.ns = $1 AND l.name = lk.name
  RETURNING r.n, l.name, ${returning}
), gone AS (
  SELECT up.name FROM up JOIN cur USING (n) WHERE cur.holder IS NOT NULL AND up.holder IS NULL
), ${notify('$4')}
SELECT r.n::int, up.n IS NOT NULL AS done, ${state('up', 'cur')}, ${notes}
FROM req r LEFT JOIN up USING (n) LEFT JOIN cur USING (n)`
}

const columns = `l.name, l.holder, l.token, l.expiry, l.value, l.pins`

/** $1 namespace, $2 names. */
function readSql({ lease }: Tables): string {
  return readingSql(`SELECT l.* FROM unnest($2::text[]) AS r(name) CROSS JOIN LATERAL (
    SELECT ${columns} FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name AND ${live} OFFSET 0
  ) l`)
}

/** $1 namespace. */
function readAllSql({ lease }: Tables): string {
  return readingSql(`SELECT ${columns} FROM ${lease} l WHERE l.ns = $1 AND ${live}`)
}

/** Always one row at least: an answer from a standby, which may be behind, is known for what it is even when empty. */
const readingSql = (rows: string): string =>
  `SELECT s.standby, l.name, l.holder, l.token::text AS token,
  extract(epoch FROM l.expiry - clock_timestamp())::float8 * 1000 AS remaining, l.value, l.pins <> '{}' AS pinned
FROM (SELECT pg_is_in_recovery() AS standby) s LEFT JOIN (
  ${rows}
) l ON true`

/** $1 namespace. */
function pinnedSql({ lease }: Tables): string {
  return `SELECT l.name, l.pins FROM ${lease} l WHERE l.ns = $1 AND l.pins <> '{}' ORDER BY l.name`
}

function inspectSql({ lease }: Tables): string {
  return `SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('synchronous_standby_names') AS standbys, current_setting('transaction_read_only') AS read_only,
  pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding,
  (SELECT relpersistence::text FROM pg_catalog.pg_class WHERE oid = to_regclass(${literal(lease)})) AS persistence`
}

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}

/** Whether exactly this term is live, locked against takeover. Parameters: namespace, name, holder, token. */
export function guardSql(
  { lease }: Tables,
  columns: string,
  parameters: readonly [string, string, string, string],
): string {
  const [namespace, name, holder, token] = parameters
  return `SELECT ${columns} FROM ${lease} l WHERE l.ns = ${namespace} AND l.name = ${name} AND l.holder = ${holder} AND l.token = ${token} AND ${live} FOR KEY SHARE OF l`
}

/** Ahead of `collectSql` in its transaction: waits for running claims, whose tokens are not in a row yet; passes guards. */
export function collectLockSql({ lease }: Tables): string {
  return `LOCK TABLE ${lease} IN SHARE ROW EXCLUSIVE MODE`
}

/** $1 namespace, $2 retention in milliseconds, $3 how many rows at most. */
export function collectSql({ lease, floor, line }: Tables): string {
  return `WITH old AS MATERIALIZED (
  SELECT l.name FROM ${lease} l WHERE l.ns = $1 AND l.pins = '{}' AND NOT ${live}
    AND l.expiry < clock_timestamp() - $2::float8 * interval '1 millisecond'
  LIMIT $3 FOR UPDATE OF l SKIP LOCKED
), d AS (
  DELETE FROM ${lease} l USING old WHERE l.ns = $1 AND l.name = old.name RETURNING l.token
), up AS (
  INSERT INTO ${floor} AS f (ns, token) SELECT $1, max(token) FROM d HAVING count(*) > 0
  ON CONFLICT (ns) DO UPDATE SET token = greatest(f.token, excluded.token)
), lines AS (
  DELETE FROM ${line} q WHERE q.ns = $1 AND q.at < clock_timestamp() - $2::float8 * interval '1 millisecond'
)
SELECT count(*)::int AS collected FROM d`
}
