/**
 * Every operation, as a function of the database. To plan the statements of one takes longer than to run them; the plans
 * inside a function are kept by each session of the server, whatever pooler sits in front. A call takes a batch, is one
 * autocommitted transaction, and costs one round trip and one fsync.
 *
 * Rules they share, and why:
 *
 * - *`clock_timestamp()`, never `now()`*, which stands still in a transaction: a lease would be granted partly used.
 * - *Takeover locks with FOR UPDATE first* (claim, expire, collect). A guard holds FOR KEY SHARE until its transaction
 *   ends; a plain UPDATE would pass it, and a guard with an older snapshot would still say yes to a displaced holder.
 * - *Whoever takes over never waits* (SKIP LOCKED): a row locked by a guard or a rival makes `contended`, and one
 *   guarded lease does not delay the rest of the batch.
 * - *Extension, release and pins wait*, and lock FOR NO KEY UPDATE, which passes guards. Rivals lock a row only for
 *   the length of a call; a release that skipped would be lost. Locks are taken in the order of names, so that
 *   overlapping batches do not deadlock.
 * - *Vacating by a plain UPDATE is safe*: it is the next claim that must get past the guards.
 * - *What is expected comes first*: claim, extend and release begin with a statement that does just that. Only when it
 *   left an operation undone, a second one looks at the leases of those, and a claim creates the rows that are missing.
 * - *All that is told of a lease comes from one statement*, and is a state that was true. The second one has a snapshot
 *   of its own: where it shows nothing that would have kept the first one from its work, somebody was at the row in
 *   between, and that is `contended`.
 * - *Rows are looked up one by one by their key* (LATERAL, and joins that the planner thinks small), also by a plan that
 *   was made when the table was. It would rather scan the namespace as long as the table has never been analyzed.
 *
 * A row is *live* when it has a holder and is pinned or not past its expiry; otherwise the lease is vacant. The guard,
 * the pins and the claim all look at, and lock, this one row.
 */
import {
  answers,
  anyUndone,
  current,
  define,
  defineText,
  firstToken,
  granted,
  inOrder,
  locked,
  lockedRow,
  micros,
  operations,
  returning,
  stateOf,
  tell,
  undone,
  vacated,
  type DatabaseFunction,
} from './function-text.ts'
import type { Tables } from './schema.ts'
import { lapsed, live } from './sql.ts'

/** All functions over these tables. */
export interface Functions {
  readonly claim: DatabaseFunction
  /** For those who wait, and stand in line meanwhile. */
  readonly claimInLine: DatabaseFunction
  readonly claimAny: DatabaseFunction
  readonly extend: DatabaseFunction
  readonly release: DatabaseFunction
  readonly expire: DatabaseFunction
  readonly pin: DatabaseFunction
  readonly unpin: DatabaseFunction
  readonly guard: DatabaseFunction
}

export function functionsOf(tables: Tables): Functions {
  return {
    claim: claim(tables),
    claimInLine: claimInLine(tables),
    claimAny: claimAny(tables),
    extend: extend(tables),
    release: release(tables),
    expire: expire(tables),
    pin: pin(tables),
    unpin: unpin(tables),
    guard: guard(tables),
  }
}

const claimArrays = '$2, $3, $4, $5, $6, $7'
const claimColumns = 'name, holder, nonce, ms, value, announce'
const claimParameters = ['text', 'text[]', 'text[]', 'text[]', 'float8[]', 'text[]', 'boolean[]']

/** Opens a term on each lease of `lk`: `up`. */
const takenOver = ({ lease }: Tables, columns: string): string => `up AS (
    UPDATE ${lease} l SET holder = r.holder, nonce = r.nonce, value = r.value, expiry = ${granted},
      token = greatest(l.token + 1, ${micros})
    FROM lk r WHERE ${lockedRow}
    RETURNING ${columns}, ${returning}
  )`

/** Opens a term on each lease of `req` that has no row yet and meets the condition: `ins`. Needs `cur`. */
const inserted = (tables: Tables, condition: string): string => `ins AS (
    INSERT INTO ${tables.lease} AS l (ns, name, holder, nonce, value, expiry, token)
    SELECT $1, r.name, r.holder, r.nonce, r.value, ${granted}, ${firstToken(tables)}
    FROM req r WHERE NOT EXISTS (SELECT FROM cur WHERE cur.n = r.n) AND ${condition} ORDER BY r.name COLLATE "C"
    ON CONFLICT (ns, name) DO NOTHING
    RETURNING l.name, ${returning}
  )`

/** Of claims that `ins` may have granted. A replay (same holder and nonce) needs no write: its term is no shorter than asked. */
const inserts = {
  n: 'r.n',
  done: 'ins.name IS NOT NULL',
  ...stateOf('ins', 'cur'),
  mine: 'ins.name IS NULL AND cur.holder = r.holder AND cur.nonce = r.nonce',
}

/**
 * $1 namespace, $2 names, $3 holders, $4 nonces, $5 milliseconds, $6 values, $7 whether to tell, $8 channel or null.
 *
 * `INSERT .. ON CONFLICT DO UPDATE .. WHERE` would be shorter, but it locks the row before it looks at the condition:
 * a contender for a live lease would hang behind the holder's guarded transaction.
 */
function claim(tables: Tables): DatabaseFunction {
  const requests = operations(claimArrays, claimColumns)
  return define(
    tables,
    'claim',
    [...claimParameters, 'text'],
    `  WITH ${locked(tables, `(${requests} ${inOrder})`, `l.holder IS NULL OR ${lapsed}`, 'FOR UPDATE SKIP LOCKED')}, ${takenOver(tables, 'r.n, r.name, r.announce')}
  SELECT ${answers({ n: 'up.n', done: 'true', ...stateOf('up') })}, array_agg(up.n),
    array_agg(to_json(up.name)) FILTER (WHERE up.announce)
  INTO done, met, news FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone} ${inOrder}), ${current(tables)}, ${inserted(tables, 'true')}
    SELECT ${answers(inserts)},
      news || array_agg(to_json(r.name)) FILTER (WHERE ins.name IS NOT NULL AND r.announce)
    INTO others, news FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n);
  END IF;${tell('$8', 'news')}`,
  )
}

/**
 * Parameters as of a claim, with the places ahead of the channel: $8 places, 0 for none, $9 channel or null.
 *
 * Who has no place does not get past those who have one: `barred`. He gets one with every refusal, but not when somebody
 * is just at the row (`contended`), for then he asks again. Leases are locked before lines, by everyone.
 */
function claimInLine(tables: Tables): DatabaseFunction {
  const { line } = tables
  const forgotten = "q.at < clock_timestamp() - interval '10 minutes'"
  const requests = (condition: string): string => `(
    SELECT t.*, q.served, coalesce(t.place = 0 AND q.served < q.last, false) AS barred
    FROM (${operations(`${claimArrays}, $8`, `${claimColumns}, place`)}) t LEFT JOIN LATERAL (
      SELECT q.last, q.served FROM ${line} q WHERE q.ns = $1 AND q.name = t.name AND NOT ${forgotten} OFFSET 0
    ) q ON true WHERE ${condition} ${inOrder}
  )`
  const passed = (from: string): string => `array_agg(json_build_array(${from}.name, ${from}.place, ceil(${from}.ms)))`
  return define(
    tables,
    'claim_in_line',
    [...claimParameters, 'int[]', 'text'],
    `  WITH ${locked(tables, requests('true'), `(l.holder IS NULL OR ${lapsed}) AND NOT r.barred`, 'FOR UPDATE SKIP LOCKED')}, ${takenOver(tables, 'r.n, r.name, r.announce, r.place, r.ms')}
  SELECT ${answers({ n: 'up.n', done: 'true', ...stateOf('up') })}, array_agg(up.n),
    array_agg(to_json(up.name)) FILTER (WHERE up.announce), ${passed('up')} FILTER (WHERE up.place > 0)
  INTO done, met, news, passed FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED ${requests(undone)}, ${current(tables)}, ${inserted(tables, 'NOT r.barred')}, lined AS (
      INSERT INTO ${line} AS q (ns, name, last, served, at)
      SELECT $1, r.name, 1, 0, clock_timestamp() FROM req r LEFT JOIN cur l USING (n)
      WHERE r.place = 0 AND NOT EXISTS (SELECT FROM ins WHERE ins.name = r.name)
        AND (${live} AND NOT (l.holder = r.holder AND l.nonce = r.nonce) OR r.barred)
      ORDER BY r.name COLLATE "C"
      ON CONFLICT (ns, name) DO UPDATE SET at = excluded.at,
        last = CASE WHEN ${forgotten} THEN 1 ELSE q.last + 1 END,
        served = CASE WHEN ${forgotten} THEN 0 ELSE q.served END
      RETURNING q.name, q.last, q.served
    )
    SELECT ${answers({
      ...inserts,
      place: `CASE WHEN r.place = 0 THEN lined.last WHEN ${live.replaceAll('l.', 'cur.')} THEN r.place END`,
      served: 'CASE WHEN r.place = 0 THEN lined.served ELSE coalesce(r.served, r.place) END',
    })},
      news || array_agg(to_json(r.name)) FILTER (WHERE ins.name IS NOT NULL AND r.announce),
      passed || ${passed('r')} FILTER (WHERE ins.name IS NOT NULL AND r.place > 0)
    INTO others, news, passed
    FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n) LEFT JOIN lined USING (name);
  END IF;
  FOR one IN 1 .. coalesce(cardinality(passed), 0) LOOP
    DELETE FROM ${line} q WHERE q.ns = $1 AND q.name = passed[one]->>0 AND q.last <= (passed[one]->>1)::int;
    IF NOT FOUND THEN
      UPDATE ${line} q SET served = greatest(q.served, (passed[one]->>1)::int) WHERE q.ns = $1 AND q.name = passed[one]->>0;
    END IF;
  END LOOP;${tell('$9', 'news')}${tell('$9', 'passed')}`,
  )
}

/**
 * $1 namespace, $2 names, $3 holder, $4 nonce, $5 milliseconds, $6 value, $7 channel or null.
 *
 * One row is locked and taken, the first that is vacant or lapsed and that nobody else is at; where there is none, one of
 * the names without a row gets its own. Nothing is taken where this holder has one already: `mine`, and `replay` if it is
 * by this very claim.
 */
function claimAny(tables: Tables): DatabaseFunction {
  const { lease } = tables
  const until = "clock_timestamp() + $5 * interval '1 millisecond'"
  return define(
    tables,
    'claim_any',
    ['text', 'text[]', 'text', 'text', 'float8', 'text', 'text'],
    `  WITH req AS MATERIALIZED (${operations('$2', 'name')}), ${current(tables)}, own AS MATERIALIZED (
    SELECT l.n, l.nonce = $4 AS replay FROM cur l WHERE l.holder = $3 AND ${live} ORDER BY l.n LIMIT 1
  ), lk AS MATERIALIZED (
    SELECT r.* FROM req r CROSS JOIN LATERAL (
      SELECT FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name AND (l.holder IS NULL OR ${lapsed}) FOR UPDATE SKIP LOCKED
    ) l WHERE NOT EXISTS (SELECT FROM own) LIMIT 1
  ), up AS (
    UPDATE ${lease} l SET holder = $3, nonce = $4, value = $6, expiry = ${until}, token = greatest(l.token + 1, ${micros})
    FROM lk r WHERE ${lockedRow}
    RETURNING l.name, ${returning}
  ), ins AS (
    INSERT INTO ${lease} AS l (ns, name, holder, nonce, value, expiry, token)
    SELECT $1, r.name, $3, $4, $6, ${until}, ${firstToken(tables)}
    FROM req r WHERE NOT EXISTS (SELECT FROM cur WHERE cur.n = r.n)
      AND NOT EXISTS (SELECT FROM lk) AND NOT EXISTS (SELECT FROM own) ORDER BY r.n LIMIT 1
    ON CONFLICT (ns, name) DO NOTHING
    RETURNING l.name, ${returning}
  ), won AS (
    SELECT * FROM up UNION ALL SELECT * FROM ins
  )
  SELECT ${answers({
    n: 'r.n',
    done: 'won.name IS NOT NULL',
    ...stateOf('won', 'cur'),
    mine: 'own.n IS NOT NULL',
    replay: 'own.replay',
  })},
    array_agg(to_json(won.name)) FILTER (WHERE won.name IS NOT NULL)
  INTO others, news FROM req r LEFT JOIN won USING (name) LEFT JOIN cur USING (n) LEFT JOIN own USING (n);${tell('$7', 'news')}`,
  )
}

/**
 * $1 namespace, $2 names, $3 holders, $4 tokens or null, $5 milliseconds, $6 values or null, $7 whether to tell, $8 channel
 * or null.
 */
function extend(tables: Tables): DatabaseFunction {
  const requests = operations('$2, $3, $4, $5, $6, $7', 'name, holder, token, ms, value, announce')
  const matches = `l.holder = r.holder AND (r.token IS NULL OR l.token = r.token) AND ${live}`
  return define(
    tables,
    'extend',
    ['text', 'text[]', 'text[]', 'bigint[]', 'float8[]', 'text[]', 'boolean[]', 'text'],
    `  WITH ${locked(tables, `(${requests} ${inOrder})`, matches, 'FOR NO KEY UPDATE', 'l.value AS before')}, up AS (
    UPDATE ${tables.lease} l SET expiry = greatest(l.expiry, ${granted}), value = coalesce(r.value, l.value)
    FROM lk r WHERE ${lockedRow} AND ${live}
    RETURNING r.n, r.name, r.announce AND l.value IS DISTINCT FROM r.before AS changed, ${returning}
  )
  SELECT ${answers({ n: 'up.n', done: 'true', ...stateOf('up') })}, array_agg(up.n),
    array_agg(to_json(up.name)) FILTER (WHERE up.changed)
  INTO done, met, news FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone}), ${current(tables)}
    SELECT ${answers({
      n: 'r.n',
      done: 'false',
      ...stateOf('cur'),
      mine: 'cur.holder = r.holder AND (r.token IS NULL OR cur.token = r.token)',
    })}
    INTO others FROM req r LEFT JOIN cur USING (n);
  END IF;${tell('$8', 'news')}`,
  )
}

/**
 * $1 namespace, $2 names, $3 holders, $4 tokens or null, $5 nonces or null, $6 channel or null.
 *
 * With a nonce the row is locked whatever this snapshot shows in it: the claim given up may be about to commit. `hit`
 * is then computed from the row as it was locked; a condition in the UPDATE would look at the snapshot first.
 */
function release(tables: Tables): DatabaseFunction {
  const requests = operations('$2, $3, $4, $5', 'name, holder, token, nonce')
  const matches = (row: string): string =>
    `${row}.holder = r.holder AND (r.token IS NULL OR ${row}.token = r.token) AND (r.nonce IS NULL OR ${row}.nonce = r.nonce)`
  return define(
    tables,
    'release',
    ['text', 'text[]', 'text[]', 'bigint[]', 'text[]', 'text'],
    `  WITH ${locked(tables, `(${requests} ${inOrder})`, `r.nonce IS NOT NULL OR (${matches('l')})`, 'FOR NO KEY UPDATE', `(${matches('l')}) AS hit`)}, up AS (
    UPDATE ${tables.lease} l SET ${vacated}, expiry = least(l.expiry, clock_timestamp())
    FROM lk r WHERE r.hit AND ${lockedRow}
    RETURNING r.n, r.name
  )
  SELECT ${answers({ n: 'up.n', done: 'true' })}, array_agg(up.n), array_agg(to_json(up.name))
  INTO done, met, gone FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone}), ${current(tables)}
    SELECT ${answers({ n: 'r.n', done: 'false', ...stateOf('cur'), mine: matches('cur') })}
    INTO others FROM req r LEFT JOIN cur USING (n);
  END IF;${tell('$6', 'gone')}`,
  )
}

/** $1 namespace, $2 names, $3 channel or null. */
function expire(tables: Tables): DatabaseFunction {
  return define(
    tables,
    'expire',
    ['text', 'text[]', 'text'],
    `  WITH req AS MATERIALIZED (${operations('$2', 'name')} ${inOrder}), ${current(tables)}, ${locked(tables, 'req', lapsed, 'FOR UPDATE SKIP LOCKED')}, up AS (
    UPDATE ${tables.lease} l SET ${vacated} FROM lk r WHERE ${lockedRow}
    RETURNING r.n, r.name
  )
  SELECT ${answers({ n: 'r.n', done: 'up.n IS NOT NULL', ...stateOf('cur') })},
    array_agg(to_json(up.name)) FILTER (WHERE up.n IS NOT NULL)
  INTO others, gone FROM req r LEFT JOIN up USING (n) LEFT JOIN cur USING (n);${tell('$3', 'gone')}`,
  )
}

/**
 * $1 namespace, $2 names, $3 entities. A lapsed lease is vacant, and a pin must not bring its holder back: the row is
 * vacated in the same step.
 */
function pin(tables: Tables): DatabaseFunction {
  const unlessLapsed = (column: string): string => `${column} = CASE WHEN ${lapsed} THEN NULL ELSE l.${column} END`
  return define(
    tables,
    'pin',
    ['text', 'text[]', 'text[]'],
    `  WITH req AS MATERIALIZED (${operations('$2, $3', 'name, entity')} ${inOrder}), up AS (
    INSERT INTO ${tables.lease} AS l (ns, name, token, expiry, pins)
    SELECT $1, r.name, ${firstToken(tables)}, clock_timestamp(), ARRAY[r.entity] FROM req r ORDER BY r.name COLLATE "C"
    ON CONFLICT (ns, name) DO UPDATE SET
      ${unlessLapsed('holder')}, ${unlessLapsed('nonce')}, ${unlessLapsed('value')},
      pins = CASE WHEN excluded.pins <@ l.pins THEN l.pins ELSE l.pins || excluded.pins END
    RETURNING l.name, ${returning}
  )
  SELECT ${answers({ n: 'r.n', done: 'true', ...stateOf('up') })} INTO done FROM req r LEFT JOIN up USING (name);`,
  )
}

/** $1 namespace, $2 names, $3 entities, $4 channel or null. The last pin gone past the expiry: vacated. */
function unpin(tables: Tables): DatabaseFunction {
  const freed = `(array_remove(l.pins, r.entity) = '{}' AND l.expiry <= clock_timestamp())`
  const unlessFreed = (column: string): string => `${column} = CASE WHEN ${freed} THEN NULL ELSE l.${column} END`
  return define(
    tables,
    'unpin',
    ['text', 'text[]', 'text[]', 'text'],
    `  WITH req AS MATERIALIZED (${operations('$2, $3', 'name, entity')} ${inOrder}), ${current(tables)}, ${locked(tables, 'req', 'r.entity = ANY(l.pins)', 'FOR NO KEY UPDATE')}, up AS (
    UPDATE ${tables.lease} l SET pins = array_remove(l.pins, r.entity),
      ${unlessFreed('holder')}, ${unlessFreed('nonce')}, ${unlessFreed('value')}
    FROM lk r WHERE ${lockedRow}
    RETURNING r.n, l.name, ${returning}
  )
  SELECT ${answers({ n: 'r.n', done: 'up.name IS NOT NULL', ...stateOf('up', 'cur') })},
    array_agg(to_json(up.name)) FILTER (WHERE cur.holder IS NOT NULL AND up.holder IS NULL AND up.n IS NOT NULL)
  INTO others, gone FROM req r LEFT JOIN up USING (n) LEFT JOIN cur USING (n);${tell('$4', 'gone')}`,
  )
}

/**
 * Whether exactly this term is live, locked against takeover: the number of the transaction, or null. $1 namespace, $2 name,
 * $3 holder, $4 token.
 *
 * In READ COMMITTED its statement sees all that was committed before it, also what the statement that calls it does not.
 */
function guard(tables: Tables): DatabaseFunction {
  return defineText(
    tables,
    'guard',
    ['text', 'text', 'text', 'bigint'],
    `BEGIN
  PERFORM FROM ${tables.lease} l
  WHERE l.ns = $1 AND l.name = $2 AND l.holder = $3 AND l.token = $4 AND ${live} FOR KEY SHARE OF l;
  RETURN CASE WHEN FOUND THEN pg_current_xact_id() END;
END`,
  )
}
