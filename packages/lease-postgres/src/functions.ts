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
 *   Everything else locks FOR NO KEY UPDATE, which passes guards.
 * - *No operation waits for a row* (SKIP LOCKED): a row that a guard, a rival or a stranger has locked makes `contended`, and
 *   does not delay the rest of the batch. Locks are taken in the order of names.
 * - *A new row may have to wait*, for a transaction that is about to commit one for the same lease. Only the insertion can
 *   find that out.
 * - *The deadline is compared in the statement that writes*, where the row is locked (`inTime`). A row that was inserted
 *   after a wait is compared again, and removed if the deadline has passed.
 * - *A row remembers its latest term* after its end: the nonce that opened it, and when it was opened. A claim that is older
 *   opens no term (`tooLate`). So it is with the latest `unpin`, and with pins.
 * - *Vacating by a plain UPDATE is safe*: it is the next claim that must get past the guards.
 * - *What is expected comes first*: claim, extend, release and pin begin with a statement that does just that. Only when it
 *   left an operation undone, a second one looks at the leases of those, and creates the rows that are missing.
 * - *The state in an answer comes from one statement*, and was true. The second statement has a snapshot of its own: where it
 *   shows nothing that would have kept the first one from its work, somebody was at the row in between: `contended`.
 * - *Rows are looked up one by one by their key* (LATERAL, and joins that the planner thinks small), also by a plan that
 *   was made when the table was. It would rather scan the namespace as long as the table has never been analyzed.
 *
 * A row is *live* when it has a holder and is pinned or not past its expiry; otherwise the lease is vacant. The guard,
 * the pins and the claim all look at, and lock, this one row.
 */
import { LONGEST_DEADLINE_MS } from 'lease-core'
import {
  anyUndone,
  byKey,
  confirmed,
  current,
  define,
  defineText,
  expiryOf,
  firstToken,
  inOrder,
  inTime,
  locked,
  lockedRow,
  newTerm,
  noRow,
  noTermYet,
  notify,
  operations,
  overtaken,
  pick,
  returning,
  tooLate,
  undone,
  vacated,
  type Claimer,
  type DatabaseFunction,
} from './function-text.ts'
import type { Tables } from './schema.ts'
import { answers, lapsed, live, micros, microsOf, pinsOf, remainingOf, stateOf } from './sql.ts'

/** All functions over these tables. */
export interface Functions {
  readonly claim: DatabaseFunction
  /** For claimers that stand in line. */
  readonly claimInLine: DatabaseFunction
  readonly claimAny: DatabaseFunction
  readonly extend: DatabaseFunction
  /** For extensions that adopt, or that bring a value. */
  readonly amend: DatabaseFunction
  readonly release: DatabaseFunction
  /** For releases that name no fencing token. */
  readonly withdraw: DatabaseFunction
  readonly expire: DatabaseFunction
  readonly pin: DatabaseFunction
  readonly unpin: DatabaseFunction
  readonly read: DatabaseFunction
  readonly pinned: DatabaseFunction
  readonly readAll: DatabaseFunction
  readonly pinnedAll: DatabaseFunction
  readonly guard: DatabaseFunction
  /** For `collect`. */
  readonly findOld: DatabaseFunction
  readonly removeOld: DatabaseFunction
  readonly forgetLines: DatabaseFunction
}

export function functionsOf(tables: Tables): Functions {
  return {
    claim: claim(tables),
    claimInLine: claimInLine(tables),
    claimAny: claimAny(tables),
    extend: extend(tables),
    amend: amend(tables),
    release: release(tables),
    withdraw: withdraw(tables),
    expire: expire(tables),
    pin: pin(tables),
    unpin: unpin(tables),
    read: reading(tables, 'read', stateOf('l'), live('l')),
    // Not `<>`: the planner would scan all pinned leases of the namespace, by their index, for each name.
    pinned: reading(tables, 'pinned', pinsOf('l'), 'cardinality(l.pins) > 0'),
    readAll: readingAll(tables, 'read_all', stateOf('l'), live('l')),
    pinnedAll: readingAll(tables, 'pinned_all', pinsOf('l'), `l.pins <> '{}'`),
    guard: guard(tables),
    findOld: findOld(tables),
    removeOld: removeOld(tables),
    forgetLines: forgetLines(tables),
  }
}

const claimArrays = '$4, $5, $6, $7, $8, $9'
const claimColumns = 'name, holder, nonce, ms, value?, announce'
const claimParameters = ['text[]', 'text[]', 'text[]', 'double precision[]', 'text[]', 'boolean[]']

const vacant = (row: string): string => `(${row}.holder IS NULL OR ${lapsed(row)})`

/** Opens a term on each lease of `lk`: `up`. */
const takenOver = ({ lease }: Tables, columns: string): string => `up AS (
    UPDATE ${lease} l SET holder = r.holder, nonce = r.nonce, value = r.value, expiry = ${expiryOf('r.ms')}, ${newTerm}
    FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING ${columns}, l.token, l.expiry, l.pins
  )`

/** The answers to the claims that `up` has granted. */
const grants = answers({ n: 'up.n', ...pick('up', 'token', 'remaining', 'pinned') })

/** Opens a term on each lease of `req` that has no row yet and meets the condition: `ins`. Needs `cur`. */
const inserted = (tables: Tables, condition: string): string => `ins AS (
    INSERT INTO ${tables.lease} AS l (ns, name, holder, nonce, value, expiry, token)
    SELECT $1, r.name, r.holder, r.nonce, r.value, ${expiryOf('r.ms')}, ${firstToken(tables)}
    FROM req r WHERE ${noRow} AND ${condition} AND ${inTime} ORDER BY r.name COLLATE "C"
    ON CONFLICT (ns, name) DO NOTHING
    RETURNING l.name, l.token, l.expiry, ${inTime} AS in_time
  )`

/** Removes the rows in which a claim or pin took effect too late, as if they had never been. */
const withoutOverdue = ({ lease }: Tables): string => `
  IF overdue_rows IS NOT NULL THEN
    DELETE FROM ${lease} l WHERE l.ns = $1 AND l.name = ANY(overdue_rows);
  END IF;`
const overdue = (row: string): string => `array_agg(${row}.name) FILTER (WHERE NOT ${row}.in_time)`

/** Of claims that the second statement has worked on: `req r`, what it has `won`, and `cur`. */
const wonOr = (won: string, { holder, nonce }: Claimer) => ({
  n: 'r.n',
  done: `coalesce(${won}.in_time, false)`,
  ...stateOf('cur'),
  token: `CASE WHEN ${won}.name IS NULL THEN cur.token ELSE ${won}.token END::text`,
  remaining: remainingOf(`CASE WHEN ${won}.name IS NULL THEN cur.expiry ELSE ${won}.expiry END`),
  mine: `cur.holder = ${holder} AND cur.nonce = ${nonce}`,
  late: `NOT ${inTime} OR NOT coalesce(${live('cur')}, false) AND ${tooLate('cur', nonce)}`,
})
const claimer: Claimer = { holder: 'r.holder', nonce: 'r.nonce' }
/** Some of the claims have a term that stands. */
const replayed = ({ holder, nonce }: Claimer): string =>
  `bool_or(cur.holder = ${holder} AND cur.nonce = ${nonce} AND ${live('cur')})`

/**
 * $4 names, $5 holders, $6 nonces, $7 milliseconds, $8 values, $9 whether to notify, $10 channel or null.
 *
 * `INSERT .. ON CONFLICT DO UPDATE .. WHERE` would be shorter, but it locks the row before it looks at the condition:
 * a contender for a live lease would hang behind the holder's guarded transaction.
 */
function claim(tables: Tables): DatabaseFunction {
  const requests = operations(claimArrays, claimColumns)
  const free = `${vacant('l')} AND NOT ${tooLate('l', 'r.nonce')}`
  return define(
    tables,
    'claim',
    [...claimParameters, 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: free, lock: 'UPDATE' })}), ${takenOver(tables, 'r.n, r.name, r.announce')}
  SELECT ${grants}, array_agg(up.n), array_agg(to_json(up.name)) FILTER (WHERE up.announce)
  INTO done, met, changed_leases FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone} ${inOrder}), ${current(tables)}, ${inserted(tables, 'true')}
    SELECT ${answers(wonOr('ins', claimer))},
      changed_leases || array_agg(to_json(r.name)) FILTER (WHERE ins.in_time AND r.announce), ${overdue('ins')}, ${replayed(claimer)}
    INTO others, changed_leases, overdue_rows, replayed FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n);${withoutOverdue(tables)}${confirmed(tables, `(${requests} WHERE ${undone} ${inOrder})`, claimer)}
  END IF;${notify('$10', 'changed_leases')}`,
  )
}

/**
 * Parameters as of a claim, with the places ahead of the channel: $10 places, 0 for none, $11 channel or null.
 *
 * A claimer without a place does not get past those who have one: `barred`. It gets one with every refusal, but not when
 * somebody is just at the row (`contended`), for then it asks again.
 *
 * Here alone rows are waited for, those of the lines. So leases are locked before lines, by everyone, and the lines of a batch
 * in one pass in the order of names: by those that are joined and by those that were served.
 */
function claimInLine(tables: Tables): DatabaseFunction {
  const { line } = tables
  const forgotten = "q.at < clock_timestamp() - interval '10 minutes'"
  const requests = (condition: string): string => `(
    SELECT t.*, q.served, coalesce(t.place = 0 AND q.served < q.last, false) AS barred
    FROM (${operations(`${claimArrays}, $10`, `${claimColumns}, place`)}) t LEFT JOIN LATERAL (
      SELECT q.last, q.served FROM ${line} q WHERE q.ns = $1 AND q.name = t.name AND NOT ${forgotten} OFFSET 0
    ) q ON true WHERE ${condition} ${inOrder}
  )`
  const free = `${vacant('l')} AND NOT r.barred AND NOT ${tooLate('l', 'r.nonce')}`
  const served = (from: string): string =>
    `array_agg(json_build_array(${from}.name, ${from}.place, ceil(${from}.ms)::bigint))`
  const servedSoFar = `SELECT taken->>0 AS name, (taken->>1)::int AS place FROM unnest(served_places) AS taken`
  return define(
    tables,
    'claim_in_line',
    [...claimParameters, 'integer[]', 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: requests('true'), where: free, lock: 'UPDATE' })}), ${takenOver(tables, 'r.n, r.name, r.announce, r.place, r.ms')}
  SELECT ${grants}, array_agg(up.n), array_agg(to_json(up.name)) FILTER (WHERE up.announce),
    ${served('up')} FILTER (WHERE up.place > 0)
  INTO done, met, changed_leases, served_places FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED ${requests(undone)}, ${current(tables)},
    ${inserted(tables, 'NOT r.barred')}, lined AS (
      INSERT INTO ${line} AS q (ns, name, last, served, at)
      SELECT $1, t.name, greatest(t.place, 1), t.place, clock_timestamp() FROM (
        SELECT r.name, 0 AS place FROM req r LEFT JOIN cur USING (n)
        WHERE r.place = 0 AND NOT EXISTS (SELECT FROM ins WHERE ins.name = r.name) AND ${inTime}
          AND (${live('cur')} AND NOT (cur.holder = r.holder AND cur.nonce = r.nonce)
            OR r.barred AND NOT ${tooLate('cur', 'r.nonce')})
        UNION ALL ${servedSoFar}
        UNION ALL SELECT r.name, r.place FROM req r JOIN ins USING (name) WHERE ins.in_time AND r.place > 0
      ) t ${inOrder}
      ON CONFLICT (ns, name) DO UPDATE SET
        at = CASE WHEN excluded.served > 0 THEN q.at ELSE excluded.at END,
        last = CASE WHEN excluded.served > 0 THEN q.last WHEN ${forgotten} THEN 1 ELSE q.last + 1 END,
        served = CASE WHEN excluded.served > 0 OR NOT ${forgotten} THEN greatest(q.served, excluded.served) ELSE 0 END
      RETURNING q.name, q.last, q.served
    )
    SELECT ${answers({
      ...wonOr('ins', claimer),
      place: `CASE WHEN r.place = 0 THEN lined.last WHEN ${live('cur')} THEN r.place END`,
      served: 'CASE WHEN r.place = 0 THEN lined.served ELSE coalesce(r.served, r.place) END',
    })},
      changed_leases || array_agg(to_json(r.name)) FILTER (WHERE ins.in_time AND r.announce),
      served_places || ${served('r')} FILTER (WHERE ins.in_time AND r.place > 0), ${overdue('ins')}, ${replayed(claimer)}
    INTO others, changed_leases, served_places, overdue_rows, replayed
    FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n) LEFT JOIN lined USING (name);${withoutOverdue(tables)}${confirmed(tables, requests(undone), claimer)}
  ELSIF served_places IS NOT NULL THEN
    WITH lk AS MATERIALIZED (
      SELECT t.place, q.ns, q.name FROM (SELECT t.* FROM (${servedSoFar}) t ${inOrder}) t CROSS JOIN LATERAL (
        SELECT q.ns, q.name FROM ${line} q WHERE q.ns = $1 AND q.name = t.name FOR UPDATE
      ) q
    )
    UPDATE ${line} q SET served = greatest(q.served, r.place)
    FROM lk r WHERE (q.ns, q.name) >= (r.ns, r.name) AND (q.ns, q.name) <= (r.ns, r.name) AND q.last > r.place;
  END IF;
  IF served_places IS NOT NULL THEN
    DELETE FROM ${line} q USING (${servedSoFar}) r
    WHERE (q.ns, q.name) >= ($1, r.name) AND (q.ns, q.name) <= ($1, r.name) AND q.last <= greatest(q.served, r.place);
  END IF;${notify('$11', 'changed_leases')}${notify('$11', 'served_places')}`,
  )
}

/**
 * $4 names, $5 holder, $6 nonce, $7 milliseconds, $8 value, $9 channel or null.
 *
 * One row is locked and taken, the first that is vacant or lapsed and that nobody else is at; where there is none, one of
 * the names without a row gets its own. Nothing is taken where this holder has one already: `mine`, and `replay` if it is
 * by this very claim.
 *
 * What a row remembers of its latest term says nothing about the other leases. So a row of its own remembers that this claim
 * was granted one: `spent`. Its name begins with a blank, which no lease's does, and it goes when it is too old for any copy.
 * Two copies at once: one does nothing.
 */
function claimAny(tables: Tables): DatabaseFunction {
  const { lease } = tables
  const none = 'NOT EXISTS (SELECT FROM own) AND NOT EXISTS (SELECT FROM spent)'
  const free = `${vacant('l')} AND NOT ${tooLate('l', '$6')}`
  const winner: Claimer = { holder: '$5', nonce: '$6' }
  const memory = `' ' || $6`
  const { late, ...known } = wonOr('won', winner)
  const unlessWon = (column: string): string => `CASE WHEN won.name IS NULL THEN cur.${column} END`
  return define(
    tables,
    'claim_any',
    ['text[]', 'text', 'text', 'double precision', 'text', 'text'],
    `  IF NOT pg_try_advisory_xact_lock(hashtextextended($6, 0)) THEN
    RETURN concat('[', ${micros}, ',{"n":[1],"done":[false]}]');
  END IF;
  WITH req AS MATERIALIZED (${operations('$4', 'name')}), ${current(tables)}, own AS MATERIALIZED (
    SELECT cur.n, cur.nonce = $6 AS replay FROM cur WHERE cur.holder = $5 AND ${live('cur')}
    ORDER BY cur.nonce = $6 DESC NULLS LAST, cur.n LIMIT 1
  ), spent AS MATERIALIZED (
    SELECT FROM ${lease} l WHERE l.ns = $1 AND l.name = ${memory}
  ), lk AS MATERIALIZED (
    ${locked(tables, { from: 'req', where: free, lock: 'UPDATE' })} WHERE ${none} LIMIT 1
  ), up AS (
    UPDATE ${lease} l SET holder = $5, nonce = $6, value = $8, expiry = ${expiryOf('$7')}, ${newTerm}
    FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING l.name, l.token, l.expiry
  ), ins AS (
    INSERT INTO ${lease} AS l (ns, name, holder, nonce, value, expiry, token)
    SELECT $1, r.name, $5, $6, $8, ${expiryOf('$7')}, ${firstToken(tables)}
    FROM req r WHERE ${noRow} AND NOT EXISTS (SELECT FROM lk) AND ${none} AND ${inTime} ORDER BY r.n LIMIT 1
    ON CONFLICT (ns, name) DO NOTHING
    RETURNING l.name, l.token, l.expiry, ${inTime} AS in_time
  ), won AS (
    SELECT up.*, true AS in_time FROM up UNION ALL SELECT * FROM ins
  ), remembered AS (
    INSERT INTO ${lease} (ns, name, token, expiry) SELECT $1, ${memory}, 0, clock_timestamp() FROM won WHERE won.in_time
  )
  SELECT ${answers({ ...known, value: unlessWon('value'), opened: unlessWon('opened'), late: `${late} OR EXISTS (SELECT FROM spent) AND NOT EXISTS (SELECT FROM own)`, mine: 'own.n IS NOT NULL', replay: 'own.replay' })},
    array_agg(to_json(won.name)) FILTER (WHERE won.in_time), ${overdue('won')}, bool_or(own.replay)
  INTO others, changed_leases, overdue_rows, replayed
  FROM req r LEFT JOIN won USING (name) LEFT JOIN cur USING (n) LEFT JOIN own USING (n);${withoutOverdue(tables)}${confirmed(tables, `(${operations('$4', 'name')})`, winner)}
  IF asked % 32 = 0 THEN
    DELETE FROM ${lease} l USING (
      SELECT o.name FROM ${lease} o WHERE o.ns = $1 AND o.name > ' ' AND o.name < '!'
        AND o.expiry < clock_timestamp() - ${LONGEST_DEADLINE_MS} * interval '1 millisecond' FOR UPDATE SKIP LOCKED
    ) old WHERE l.ns = $1 AND l.name = old.name;
  END IF;${notify('$9', 'changed_leases')}`,
  )
}

const isOfTerm = (row: string): string => `${row}.holder = r.holder AND ${row}.token = r.token`

/** $4 names, $5 holders, $6 tokens, $7 milliseconds. */
function extend(tables: Tables): DatabaseFunction {
  const requests = operations('$4, $5, $6, $7', 'name, holder, token, ms')
  return define(
    tables,
    'extend',
    ['text[]', 'text[]', 'bigint[]', 'double precision[]'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: `${isOfTerm('l')} AND ${live('l')}`, lock: 'NO KEY UPDATE' })}), up AS (
    UPDATE ${tables.lease} l SET expiry = greatest(l.expiry, ${expiryOf('r.ms')})
    FROM lk r WHERE ${lockedRow} AND ${live('l')} AND ${inTime}
    RETURNING r.n, ${returning}
  )
  SELECT ${extensions}, array_agg(up.n) INTO done, met FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone}), ${current(tables)}
    SELECT ${answers({ n: 'r.n', done: 'false', ...stateOf('cur'), mine: isOfTerm('cur'), late: `NOT ${inTime}` })}
    INTO others FROM req r LEFT JOIN cur USING (n);
  END IF;`,
  )
}

/** The answers to the extensions that `up` has granted. */
const extensions = answers({ n: 'up.n', ...pick('up', 'remaining', 'value', 'pinned', 'nonce', 'opened') })

/**
 * $4 names, $5 holders, $6 tokens, $7 milliseconds, $8 values or null, $9 whether to notify, $10 nonces to be replaced and
 * $11 nonces to take their place, or null, $12 channel or null.
 *
 * A value that was sent before the present one is late: the row keeps when that was sent. Not when it was set: a copy of it
 * must not make the next one late.
 */
function amend(tables: Tables): DatabaseFunction {
  const requests = operations(
    '$4, $5, $6, $7, $8, $9, $10, $11',
    'name, holder, token, ms, value?, announce, adopted?, nonce?',
  )
  const matches = (row: string): string =>
    `${isOfTerm(row)} AND (r.nonce IS NULL OR ${row}.nonce = r.nonce OR ${row}.nonce IS NOT DISTINCT FROM r.adopted)`
  const valueTooLate = (row: string): string =>
    `coalesce(r.value IS NOT NULL AND r.value IS DISTINCT FROM ${row}.value AND ${overtaken(`${row}.valued`)}, false)`
  return define(
    tables,
    'amend',
    ['text[]', 'text[]', 'bigint[]', 'double precision[]', 'text[]', 'boolean[]', 'text[]', 'text[]', 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: `${matches('l')} AND ${live('l')} AND NOT ${valueTooLate('l')}`, lock: 'NO KEY UPDATE', read: 'l.value AS before' })}), up AS (
    UPDATE ${tables.lease} l SET expiry = greatest(l.expiry, ${expiryOf('r.ms')}), value = coalesce(r.value, l.value),
      valued = CASE WHEN r.value IS NULL THEN l.valued ELSE greatest(l.valued, least($2, asked)) END,
      opener = CASE WHEN l.nonce <> r.nonce THEN coalesce(l.opener, l.nonce) ELSE l.opener END,
      nonce = coalesce(r.nonce, l.nonce)
    FROM lk r WHERE ${lockedRow} AND ${live('l')} AND ${inTime}
    RETURNING r.n, r.name, r.announce AND l.value IS DISTINCT FROM r.before AS changed, ${returning}
  )
  SELECT ${extensions}, array_agg(up.n), array_agg(to_json(up.name)) FILTER (WHERE up.changed)
  INTO done, met, changed_leases FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone}), ${current(tables)}
    SELECT ${answers({
      n: 'r.n',
      done: 'false',
      ...stateOf('cur'),
      mine: matches('cur'),
      late: `NOT ${inTime} OR ${matches('cur')} AND ${live('cur')} AND ${valueTooLate('cur')}`,
    })}
    INTO others FROM req r LEFT JOIN cur USING (n);
  END IF;${notify('$12', 'changed_leases')}`,
  )
}

const vacatedNow = `${vacated}, expiry = least(l.expiry, clock_timestamp())`

/** $4 names, $5 holders, $6 tokens, $7 nonces or null, $8 channel or null. */
function release(tables: Tables): DatabaseFunction {
  const requests = operations('$4, $5, $6, $7', 'name, holder, token, nonce?')
  const matches = (row: string): string =>
    `${row}.holder = r.holder AND ${row}.token = r.token AND (r.nonce IS NULL OR ${row}.nonce = r.nonce)`
  return define(
    tables,
    'release',
    ['text[]', 'text[]', 'bigint[]', 'text[]', 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: matches('l'), lock: 'NO KEY UPDATE' })}), up AS (
    UPDATE ${tables.lease} l SET ${vacatedNow} FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, r.name
  )
  SELECT ${answers({ n: 'up.n' })}, array_agg(up.n), array_agg(to_json(up.name)) INTO done, met, vacated_leases FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone}), ${current(tables)}
    SELECT ${answers({ n: 'r.n', done: 'false', ...stateOf('cur'), mine: matches('cur'), late: `NOT ${inTime}` })}
    INTO others FROM req r LEFT JOIN cur USING (n);
  END IF;${notify('$8', 'vacated_leases')}`,
  )
}

/**
 * $4 names, $5 holders, $6 nonces, $7 channel or null.
 *
 * Cleans up after claims that may be about to commit. A row is locked whatever this snapshot shows in it, and `hit` is then
 * computed from the row as it was locked; a condition in the UPDATE would look at the snapshot first. Where another transaction
 * has the row locked, nothing is certain: `busy`. Where there is no row, one is inserted: that waits for the claim if it is
 * about to insert the same.
 */
function withdraw(tables: Tables): DatabaseFunction {
  const { lease } = tables
  const requests = operations('$4, $5, $6', 'name, holder, nonce')
  const hit = '(l.holder = r.holder AND l.nonce = r.nonce) AS hit'
  return define(
    tables,
    'withdraw',
    ['text[]', 'text[]', 'text[]', 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: 'true', lock: 'NO KEY UPDATE', read: hit })}), up AS (
    UPDATE ${lease} l SET ${vacatedNow} FROM lk r WHERE r.hit AND ${lockedRow} AND ${inTime}
    RETURNING r.n, r.name
  )
  SELECT ${answers({ n: 'up.n' })}, array_agg(up.n), array_agg(to_json(up.name)),
    (SELECT array_agg(lk.n) FROM lk WHERE lk.hit IS NOT TRUE)
  INTO done, met, vacated_leases, missed FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone} ${inOrder}), ${current(tables)}, ins AS (
      INSERT INTO ${lease} AS l (ns, name, token, expiry)
      SELECT $1, r.name, ${noTermYet(tables)}, clock_timestamp() FROM req r WHERE ${noRow} AND ${inTime}
      ORDER BY r.name COLLATE "C" ON CONFLICT (ns, name) DO NOTHING RETURNING l.name
    )
    SELECT ${answers({
      n: 'r.n',
      done: 'ins.name IS NOT NULL',
      ...stateOf('cur'),
      busy: `r.n <> ALL(coalesce(missed, '{}'))`,
      late: `NOT ${inTime}`,
    })}
    INTO others FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n);
  END IF;${notify('$7', 'vacated_leases')}`,
  )
}

/** $4 names, $5 channel or null. */
function expire(tables: Tables): DatabaseFunction {
  return define(
    tables,
    'expire',
    ['text[]', 'text'],
    `  WITH req AS MATERIALIZED (${operations('$4', 'name')} ${inOrder}), ${current(tables)},
  lk AS MATERIALIZED (${locked(tables, { from: 'req', where: lapsed('l'), lock: 'UPDATE' })}), up AS (
    UPDATE ${tables.lease} l SET ${vacated} FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, r.name
  )
  SELECT ${answers({ n: 'r.n', done: 'up.n IS NOT NULL', ...stateOf('cur'), late: `NOT ${inTime}` })},
    array_agg(to_json(up.name)) FILTER (WHERE up.n IS NOT NULL)
  INTO others, vacated_leases FROM req r LEFT JOIN up USING (n) LEFT JOIN cur USING (n);${notify('$5', 'vacated_leases')}`,
  )
}

const pinArrays = '$4, $5, $6'
const pinColumns = 'name, entity, generation'
const pinParameters = ['text[]', 'text[]', 'text[]']
/** The generation of the pin by this entity. A release before the generations leaves them alone: it is the empty one then. */
const generationOf = (row: string): string => `coalesce(${row}.generations->r.entity->>0, '')`
/** Of each entity: the generation of its pin, and when it was set. */
const newGeneration = 'jsonb_build_object(r.entity, jsonb_build_array(r.generation, asked))'

/**
 * $4 names, $5 entities, $6 generations.
 *
 * A lapsed lease is vacant, and a pin must not bring its holder back: the row is vacated in the same step.
 */
function pin(tables: Tables): DatabaseFunction {
  const { lease } = tables
  const requests = operations(pinArrays, pinColumns)
  const pinned = (row: string): string => `r.entity = ANY(${row}.pins)`
  const stands = (row: string): string => `${pinned(row)} AND ${generationOf(row)} = r.generation`
  const pinTooLate = (
    row: string,
  ): string => `coalesce(NOT (${stands(row)}) AND (coalesce(${overtaken(`${row}.unpinned`)}, false)
        OR ${pinned(row)} AND ${overtaken(`(${row}.generations->r.entity->>1)::bigint`)}), false)`
  const unlessLapsed = (column: string): string => `${column} = CASE WHEN ${lapsed('l')} THEN NULL ELSE l.${column} END`
  return define(
    tables,
    'pin',
    pinParameters,
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: `NOT ${pinTooLate('l')}`, lock: 'NO KEY UPDATE' })}), up AS (
    UPDATE ${lease} l SET ${unlessLapsed('holder')}, ${unlessLapsed('value')},
      pins = CASE WHEN ${pinned('l')} THEN l.pins ELSE l.pins || r.entity END,
      generations = CASE WHEN ${stands('l')} THEN l.generations ELSE coalesce(l.generations, '{}') || ${newGeneration} END
    FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, l.name, ${returning}
  )
  SELECT ${answers({ n: 'up.n', ...stateOf('up') })}, array_agg(up.n) INTO done, met FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone} ${inOrder}), ${current(tables)}, ins AS (
      INSERT INTO ${lease} AS l (ns, name, token, expiry, pins, generations)
      SELECT $1, r.name, ${noTermYet(tables)}, clock_timestamp(), ARRAY[r.entity], ${newGeneration}
      FROM req r WHERE ${noRow} AND ${inTime} ORDER BY r.name COLLATE "C"
      ON CONFLICT (ns, name) DO NOTHING
      RETURNING l.name, ${inTime} AS in_time
    )
    SELECT ${answers({ n: 'r.n', done: 'coalesce(ins.in_time, false)', ...stateOf('cur'), late: `NOT ${inTime} OR ${pinTooLate('cur')}` })}, ${overdue('ins')}
    INTO others, overdue_rows FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n);${withoutOverdue(tables)}
  END IF;`,
  )
}

/**
 * $4 names, $5 entities, $6 generations, $7 channel or null. The last pin gone past the expiry: vacated.
 *
 * The time is kept also where there is no such pin, and a row made for it: the pin may have been given up, and still be on
 * its way.
 */
function unpin(tables: Tables): DatabaseFunction {
  const { lease } = tables
  const requests = operations(pinArrays, pinColumns)
  const hit = `(r.entity = ANY(l.pins) AND ${generationOf('l')} = r.generation)`
  const left = `CASE WHEN ${hit} THEN array_remove(l.pins, r.entity) ELSE l.pins END`
  const freed = `(${hit} AND array_remove(l.pins, r.entity) = '{}' AND l.expiry <= clock_timestamp())`
  const unlessFreed = (column: string): string => `${column} = CASE WHEN ${freed} THEN NULL ELSE l.${column} END`
  return define(
    tables,
    'unpin',
    [...pinParameters, 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: 'true', lock: 'NO KEY UPDATE', read: 'l.holder AS before' })}), up AS (
    UPDATE ${lease} l SET ${unlessFreed('holder')}, ${unlessFreed('value')}, pins = ${left}, unpinned = asked,
      generations = CASE WHEN ${hit} THEN nullif(l.generations - r.entity, '{}') ELSE l.generations END
    FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, l.name, r.before, ${returning}
  )
  SELECT ${answers({ n: 'up.n', ...stateOf('up') })}, array_agg(up.n),
    array_agg(to_json(up.name)) FILTER (WHERE up.before IS NOT NULL AND up.holder IS NULL)
  INTO done, met, vacated_leases FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone} ${inOrder}), ${current(tables)}, ins AS (
      INSERT INTO ${lease} AS l (ns, name, token, expiry, unpinned)
      SELECT $1, r.name, ${noTermYet(tables)}, clock_timestamp(), asked FROM req r WHERE ${noRow} AND ${inTime}
      ORDER BY r.name COLLATE "C" ON CONFLICT (ns, name) DO NOTHING RETURNING l.name
    )
    SELECT ${answers({ n: 'r.n', done: 'ins.name IS NOT NULL', ...stateOf('cur'), late: `NOT ${inTime}` })}
    INTO others FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n);
  END IF;${notify('$7', 'vacated_leases')}`,
  )
}

/**
 * What is known of those of the named leases that meet the condition; null on a standby, which may be behind. $1 namespace,
 * $2 names. Answers as the operations do.
 */
function reading(tables: Tables, name: string, fields: Fields, condition: string): DatabaseFunction {
  const rows = `unnest($2) AS r(name) CROSS JOIN LATERAL (
      SELECT l.* FROM ${tables.lease} l WHERE l.ns = $1 AND l.name = r.name AND ${condition} OFFSET 0
    ) l`
  return defineText(tables, name, ['text', 'text[]'], answering(fields, rows), byKey)
}

/** The same of all leases of the namespace. $1 namespace. */
function readingAll(tables: Tables, name: string, fields: Fields, condition: string): DatabaseFunction {
  const rows = `${tables.lease} l WHERE l.ns = $1 AND ${condition}`
  return defineText(tables, name, ['text'], answering(fields, rows), [])
}

type Fields = Readonly<Record<string, string>>

const answering = (fields: Fields, rows: string): string => `BEGIN
  IF pg_is_in_recovery() THEN RETURN NULL; END IF;
  RETURN concat('[', ${micros}, ',', (
    SELECT ${answers({ name: 'l.name', ...fields })} FROM ${rows}
  ), ']');
END`

/** How long after it was asked for a claim may have been committed whose holder has been told of it, in microseconds. */
const LONGEST_CLAIM_MICROS = 60_000_000

/**
 * Whether exactly this term is live, locked against takeover: the number of the transaction, or null. $1 namespace, $2 name,
 * $3 holder, $4 token.
 *
 * In READ COMMITTED its statement sees all that was committed before it, also what the statement that calls it does not. A
 * snapshot of the whole transaction may be older than the latest renewal, or than the term: where it does not show the term, nor that
 * it is over, this is no answer but a reason to run the transaction again. A lease that had lapsed when the transaction began was
 * not renewed since.
 */
function guard(tables: Tables): DatabaseFunction {
  const { lease } = tables
  const one = 'l.ns = $1 AND l.name = $2'
  return defineText(
    tables,
    'guard',
    ['text', 'text', 'text', 'bigint'],
    `BEGIN
  PERFORM FROM ${lease} l WHERE ${one} AND l.holder = $3 AND l.token = $4 AND ${live('l')} FOR KEY SHARE OF l;
  IF FOUND THEN RETURN pg_current_xact_id(); END IF;
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') AND coalesce((
    SELECT CASE
      WHEN l.token = $4 THEN l.holder IS NOT NULL AND l.expiry >= transaction_timestamp()
      WHEN l.token > $4 THEN false
    END FROM ${lease} l WHERE ${one}
  ), $4 > ${microsOf('transaction_timestamp()')} - ${LONGEST_CLAIM_MICROS}) THEN
    RAISE EXCEPTION 'the snapshot of this transaction may be older than what it guards: run the transaction again'
      USING ERRCODE = 'serialization_failure';
  END IF;
  RETURN NULL;
END`,
    byKey,
  )
}

/** Nobody has held the lease for so long that nothing needs to be remembered of it. $2 retention in milliseconds. */
const isOld = `l.pins = '{}' AND NOT ${live('l')}
    AND l.expiry < clock_timestamp() - greatest($2, ${LONGEST_DEADLINE_MS}) * interval '1 millisecond'
    AND coalesce(l.unpinned, 0) < ${micros} - ${LONGEST_DEADLINE_MS * 1000}`
const isForgotten = "q.at < clock_timestamp() - $2 * interval '1 millisecond'"

/**
 * The names of old rows in the order of names, whether there may be more, and the last name looked at, without a lock. $1 namespace,
 * $2 retention in milliseconds, $3 the name after which to begin, $4 how many rows at most to look at.
 */
function findOld(tables: Tables): DatabaseFunction {
  return defineText(
    tables,
    'find_old',
    ['text', 'double precision', 'text', 'bigint'],
    `BEGIN
  RETURN (
    SELECT json_build_array(array_agg(l.name) FILTER (WHERE ${isOld}), count(*) = $4, max(l.name)) FROM (
      SELECT l.* FROM ${tables.lease} l WHERE l.ns = $1 AND l.name > $3 ORDER BY l.name LIMIT $4
    ) l
  );
END`,
    byKey,
  )
}

/**
 * Removes those of the named rows that are old still, and says how many. $1 namespace, $2 retention in milliseconds, $3 names.
 *
 * Running claims are waited for, whose tokens are not in a row yet: a row that is made meanwhile must begin above the floor. The
 * transaction must be READ COMMITTED.
 */
function removeOld(tables: Tables): DatabaseFunction {
  const { lease, floor } = tables
  return defineText(
    tables,
    'remove_old',
    ['text', 'double precision', 'text[]'],
    `DECLARE
  removed bigint;
BEGIN
  LOCK TABLE ${lease} IN SHARE ROW EXCLUSIVE MODE;
  WITH old AS MATERIALIZED (
    SELECT l.ns, l.name FROM unnest($3) AS t(name) CROSS JOIN LATERAL (
      SELECT l.ns, l.name FROM ${lease} l WHERE l.ns = $1 AND l.name = t.name AND ${isOld} FOR UPDATE SKIP LOCKED
    ) l
  ), d AS (
    DELETE FROM ${lease} l USING old r WHERE ${lockedRow} RETURNING l.token
  ), up AS (
    INSERT INTO ${floor} AS f (ns, token) SELECT $1, max(token) FROM d HAVING count(*) > 0
    ON CONFLICT (ns) DO UPDATE SET token = greatest(f.token, excluded.token)
  )
  SELECT count(*) INTO removed FROM d;
  RETURN removed;
END`,
    byKey,
  )
}

/** Removes the lines that nobody has joined for long. $1 namespace, $2 retention in milliseconds. */
function forgetLines({ line, ...tables }: Tables): DatabaseFunction {
  return defineText(
    tables,
    'forget_lines',
    ['text', 'double precision'],
    `BEGIN
  DELETE FROM ${line} q USING (
    SELECT q.name FROM ${line} q WHERE q.ns = $1 AND ${isForgotten} FOR UPDATE SKIP LOCKED
  ) old WHERE q.ns = $1 AND q.name = old.name;
  RETURN NULL;
END`,
    [],
  )
}
