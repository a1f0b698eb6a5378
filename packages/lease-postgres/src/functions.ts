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
 *   does not delay the rest of the batch. Locks are taken in the order of names. Three exceptions, all bounded: a claim that is
 *   alone in its batch, before it gets into a queue (`claimInQueue`), a read that begins to watch (`watch`), and the row of a counted lease.
 * - *A new row may have to wait*, for a transaction that is about to commit one for the same lease. Only the insertion can
 *   find that out.
 * - *The deadline is compared in the statement that writes*, where the row is locked (`inTime`). A row that was inserted
 *   after a wait is compared again, and removed if the deadline has passed.
 * - *A row remembers its latest term* after its end: the nonce that opened it, and when it was opened. A claim that is older
 *   opens no term (`tooLate`). So it is with the latest `unpin`, and with pins.
 * - *Vacating by a plain UPDATE is safe*: it is the next claim that must get past the guards. The next claim after the end of a share
 *   is of another row: so the weight stays in the row, and a claim clears it past its guards (share-functions.ts).
 * - *What is expected comes first*: claim, extend, release and pin begin with a statement that does just that. Only when it
 *   left an operation undone, a second one looks at the leases of those, and creates the rows that are missing.
 * - *The state in an answer comes from one statement*, and was true. The second statement has a snapshot of its own: where it
 *   shows nothing that would have kept the first one from its work, somebody was at the row in between: `contended`.
 * - *Rows are looked up one by one by their key* (LATERAL, and joins that the planner thinks small), also by a plan that
 *   was made when the table was. It would rather scan the namespace as long as the table has never been analyzed.
 *
 * Nobody who waits misses a vacancy. One who gets into a queue, or begins to watch, locks the lease's row FOR SHARE, tells the state of
 * the row as it was locked, and is in the table of those who wait (W) when its COMMIT frees the row. Anyone who ends a term changes the
 * row first, and looks into that table in a *second statement* (R), which sees all that was committed before it. SHARE conflicts
 * with that change and not with guards, nor with others who register. In whichever order the two come to the row:
 *
 * | R or W comes first | what happens then |
 * |---|---|
 * | W has the lock | R skips the row, `contended`; core repeats R, whose second statement sees W |
 * | W has committed before R changes the row | the second statement of R sees W, although R's first snapshot may be older |
 * | R has changed the row | W skips it (a claim: `contended`), or waits for the COMMIT of R (a read), and sees the lease vacant |
 * | R has committed before W locks the row, but after W's snapshot | the lock is on the latest version, and W tells that: vacant |
 * | there is no row | W inserts one; who claims inserts one too, and waits for the other: the row is there then, see above |
 * | R sees nothing that was committed since it began (REPEATABLE READ) | R tells everyone in the namespace |
 *
 * So it is with a claim or value that is announced. Rows of leases are locked before those of W, and names in their order; a
 * read that watches has changed nothing and inserted nothing when it waits for a row, so no two wait for each other.
 *
 * So it is with a counted lease and its shares: its row takes the place of the lease's row in this table. What else can meet there is in
 * share-functions.ts.
 *
 * A row is *live* when it has a holder and is pinned or not past its expiry; otherwise the lease is vacant. The guard,
 * the pins and the claim all look at, and lock, this one row.
 */
import { LONGEST_DEADLINE_MS, TOLD } from 'lease-core/adapter'
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
  asynchronously,
  boundedWait,
  endedOf,
  inForce,
  interestEnd,
  sameWaiter,
  operations,
  overtaken,
  MOMENT_MS,
  insideOf,
  pick,
  returning,
  tooLate,
  undone,
  vacated,
  waiting,
  type Claimer,
  type DatabaseFunction,
} from './function-text.ts'
import type { Tables } from './schema.ts'
import {
  claimShare,
  counted,
  defineCounted,
  entered,
  entering,
  findCounts,
  passed,
  sweep,
  tidy,
} from './share-functions.ts'
import { answers, lapsed, live, micros, microsOf, pinsOf, remainingOf, stateOf } from './sql.ts'
import { fitting, tell, telling } from './telling.ts'

/** All functions over these tables. */
export interface Functions {
  readonly claim: DatabaseFunction
  /** For claimers that wait. */
  readonly claimInQueue: DatabaseFunction
  readonly extend: DatabaseFunction
  /** For extensions that adopt, or that bring a value. */
  readonly amend: DatabaseFunction
  readonly release: DatabaseFunction
  /** For releases that name no fencing token. */
  readonly withdraw: DatabaseFunction
  readonly expire: DatabaseFunction
  readonly pin: DatabaseFunction
  readonly unpin: DatabaseFunction
  /** For claims of shares, of claimers that wait and others. */
  readonly claimShare: DatabaseFunction
  readonly define: DatabaseFunction
  readonly leave: DatabaseFunction
  readonly passOver: DatabaseFunction
  readonly read: DatabaseFunction
  /** A reading after which the client watches some of the leases. */
  readonly watch: DatabaseFunction
  /** For those who watch the namespace. */
  readonly watchAll: DatabaseFunction
  readonly pinned: DatabaseFunction
  readonly readAll: DatabaseFunction
  readonly pinnedAll: DatabaseFunction
  /** A counted lease with its shares. */
  readonly counted: DatabaseFunction
  readonly guard: DatabaseFunction
  /** For `collect`. */
  readonly findOld: DatabaseFunction
  readonly removeOld: DatabaseFunction
  readonly forget: DatabaseFunction
  readonly findCounts: DatabaseFunction
  readonly tidy: DatabaseFunction
  /** Called by those that change something. */
  readonly tell: DatabaseFunction
  /** The same, of shares. */
  readonly fitting: DatabaseFunction
  readonly entering: DatabaseFunction
  readonly sweep: DatabaseFunction
}

let latest: { readonly tables: Tables; readonly functions: Functions } | undefined

/** Made once for all clients of the same tables: the texts take milliseconds and 130 kB. */
export function functionsOf(tables: Tables): Functions {
  const { prefix, lease } = tables // the other names follow from these
  if (latest?.tables.prefix !== prefix || latest.tables.lease !== lease) {
    latest = { tables, functions: makeFunctions(tables) }
  }
  return latest.functions
}

function makeFunctions(tables: Tables): Functions {
  return {
    claim: claim(tables),
    claimInQueue: claimInQueue(tables),
    extend: extend(tables),
    amend: amend(tables),
    release: release(tables),
    withdraw: withdraw(tables),
    expire: expire(tables),
    pin: pin(tables),
    unpin: unpin(tables),
    claimShare: claimShare(tables),
    define: defineCounted(tables),
    leave: leave(tables),
    passOver: passOver(tables),
    watch: watch(tables),
    watchAll: watchAll(tables),
    read: reading(tables, 'read', stateOf('l'), live('l')),
    // Not `<>`: the planner would scan all pinned leases of the namespace, by their index, for each name.
    pinned: reading(tables, 'pinned', pinsOf('l'), 'cardinality(l.pins) > 0'),
    readAll: readingAll(tables, 'read_all', stateOf('l'), live('l')),
    pinnedAll: readingAll(tables, 'pinned_all', pinsOf('l'), `l.pins <> '{}'`),
    counted: counted(tables),
    guard: guard(tables),
    findOld: findOld(tables),
    removeOld: removeOld(tables),
    forget: forget(tables),
    findCounts: findCounts(tables),
    tidy: tidy(tables),
    tell: telling(tables),
    fitting: fitting(tables),
    entering: entering(tables),
    sweep: sweep(tables),
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

/** Of claims that the second statement has worked on: `req r`, what it has `won`, and the rows as they are known. */
const wonOr = (won: string, { holder, nonce }: Claimer, cur = 'cur') => ({
  n: 'r.n',
  done: `coalesce(${won}.in_time, false)`,
  ...stateOf(cur),
  token: `CASE WHEN ${won}.name IS NULL THEN ${cur}.token ELSE ${won}.token END::text`,
  remaining: remainingOf(`CASE WHEN ${won}.name IS NULL THEN ${cur}.expiry ELSE ${won}.expiry END`),
  mine: `${cur}.holder = ${holder} AND ${cur}.nonce = ${nonce}`,
  late: `NOT ${inTime} OR NOT coalesce(${live(cur)}, false) AND ${tooLate(cur, nonce)}`,
})
const claimer: Claimer = { holder: 'r.holder', nonce: 'r.nonce' }
/** Some of the claims have a term that stands. */
const replayed = ({ holder, nonce }: Claimer, cur = 'cur'): string =>
  `bool_or(${cur}.holder = ${holder} AND ${cur}.nonce = ${nonce} AND ${live(cur)})`

/**
 * $4 names, $5 holders, $6 nonces, $7 milliseconds, $8 values, $9 whether to notify, $10 channel or null, $11 client or null.
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
    [...claimParameters, 'text', 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: free, lock: 'UPDATE' })}), ${takenOver(tables, 'r.n, r.name, r.announce')}
  SELECT ${grants}, array_agg(up.n), array_agg(up.name) FILTER (WHERE up.announce)
  INTO done, met, changed_leases FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone} ${inOrder}), ${current(tables)}, ${inserted(tables, 'true')}
    SELECT ${answers(wonOr('ins', claimer))},
      changed_leases || array_agg(r.name) FILTER (WHERE ins.in_time AND r.announce), ${overdue('ins')}, ${replayed(claimer)}
    INTO others, changed_leases, overdue_rows, replayed FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n);${withoutOverdue(tables)}${confirmed(tables, `(${requests} WHERE ${undone} ${inOrder})`, claimer)}
  END IF;${tell(tables, { channel: '$10', client: '$11', of: ['changed'] })}`,
  )
}

/**
 * Parameters as of a claim, with these ahead of channel and client: $10 places, 0 for none, $11 how many may wait, or null; $12
 * channel or null, $13 client.
 *
 * A claimer without a place does not get past those who have one: `barred`. A refusal puts it into the queue, and tells the state of the
 * row as it was locked. Where somebody else is at the row it is `contended`, and core asks again. Where nothing is granted the
 * COMMIT does not wait for the disk, so the row is locked for a moment only.
 *
 * One that is alone in its batch, and so has locked nothing and delays nobody, waits for the row for a moment: a caller at a lease that
 * others wait for has just been granted it, and is at its COMMIT.
 *
 * Tickets rise, but of two who get one at once the later may be seen first: then `ahead` is one too small.
 */
function claimInQueue(tables: Tables): DatabaseFunction {
  const { lease, waiter } = tables
  const requests = (condition: string): string => `(
    SELECT t.*, t.place = 0 AND EXISTS (SELECT FROM ${waiter} w WHERE ${waiting('t.name')}) AS barred
    FROM (${operations(`${claimArrays}, $10, $11`, `${claimColumns}, place, most?`)}) t WHERE ${condition} ${inOrder}
  )`
  const free = `${vacant('l')} AND NOT r.barred AND NOT ${tooLate('l', 'r.nonce')}`
  const taken = (row: string): string[] => [`${row}.name`, `${row}.place`, `ceil(${row}.ms)::bigint`]
  const takenIn = (condition: string): string[] =>
    taken('r').map((column) => `array_agg(${column}) FILTER (WHERE ${condition})`)
  const takenSoFar = ['taken_leases', 'taken_places', 'taken_ms']
  // The queue is counted where it must not grow beyond a number: nobody else gets in at that time.
  const lockedFor = (limit: string, lock: 'SHARE' | 'NO KEY UPDATE'): string =>
    locked(tables, {
      from: `(SELECT * FROM req WHERE most IS ${limit})`,
      where: 'true',
      lock,
      keep: 'r.n',
      read: `${returning}, l.opener`,
    })
  const joins = `${inTime} AND CASE WHEN held.n IS NULL THEN made.name IS NOT NULL
        WHEN ${live('held')} THEN NOT (held.holder = r.holder AND held.nonce = r.nonce)
        ELSE r.barred AND NOT ${tooLate('held', 'r.nonce')} END`
  const place = `i.name, i.place, (SELECT count(*) FROM ${waiter} w WHERE ${waiting('i.name')} AND w.place < i.place) AS ahead`
  return define(
    tables,
    'claim_in_queue',
    [...claimParameters, 'bigint[]', 'text[]', 'text', 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: requests('true'), where: free, lock: 'UPDATE' })}), ${takenOver(tables, 'r.n, r.name, r.announce, r.place, r.ms')}
  SELECT ${grants}, array_agg(up.n), array_agg(up.name) FILTER (WHERE up.announce),
    ${taken('up')
      .map((column) => `array_agg(${column}) FILTER (WHERE up.place > 0)`)
      .join(', ')}
  INTO done, met, changed_leases, ${takenSoFar.join(', ')} FROM up;
  IF ${anyUndone} THEN
    IF cardinality($4) = 1 THEN
      PERFORM set_config('lock_timeout', '${MOMENT_MS}', true);
      PERFORM FROM ${lease} l WHERE l.ns = $1 AND l.name = $4[1] FOR SHARE;
      ${boundedWait}
    END IF;
    WITH req AS MATERIALIZED ${requests(undone)}, ${current(tables)}, ${inserted(tables, 'NOT r.barred')}, made AS (
      INSERT INTO ${lease} AS l (ns, name, token, expiry) SELECT $1, r.name, ${noTermYet(tables)}, clock_timestamp()
      FROM req r WHERE ${noRow} AND r.barred AND ${inTime} ORDER BY r.name COLLATE "C"
      ON CONFLICT (ns, name) DO NOTHING RETURNING l.name
    ), held AS MATERIALIZED (
      ${lockedFor('NULL', 'SHARE')}
      UNION ALL ${lockedFor('NOT NULL', 'NO KEY UPDATE')}
    )
    SELECT ${answers(wonOr('ins', claimer, 'held'))},
      changed_leases || array_agg(r.name) FILTER (WHERE ins.in_time AND r.announce),
      ${takenIn('ins.in_time AND r.place > 0')
        .map((list, index) => `${takenSoFar[index]} || ${list}`)
        .join(', ')},
      ${overdue('ins')}, ${replayed(claimer, 'held')}, coalesce(bool_or(ins.in_time), false), array_agg(r.n) FILTER (WHERE ${joins})
    INTO others, changed_leases, ${takenSoFar.join(', ')}, overdue_rows, replayed, is_granted, joining
    FROM req r LEFT JOIN ins USING (name) LEFT JOIN made USING (name) LEFT JOIN held USING (n);${withoutOverdue(tables)}${confirmed(tables, requests(undone), claimer)}
    IF met IS NULL AND NOT is_granted AND replayed IS NOT TRUE THEN
      ${asynchronously}
    END IF;
    IF joining IS NOT NULL THEN
      WITH req AS MATERIALIZED (
        SELECT t.*, t.place = 0 AND t.most IS NOT NULL
          AND EXISTS (SELECT FROM ${lease} l WHERE l.ns = $1 AND l.name = t.name AND ${live('l')})
          AND (SELECT count(*) FROM ${waiter} w WHERE ${waiting('t.name')}) >= t.most::bigint AS is_full
        FROM (${operations('$4, $10, $11', 'name, place, most?')}) t WHERE t.n = ANY(joining) ${inOrder}
      ), given AS (
        INSERT INTO ${waiter} AS i (ns, name, client, until) SELECT $1, r.name, $13, ${interestEnd}
        FROM req r WHERE r.place = 0 AND r.is_full IS NOT TRUE
        RETURNING ${place}
      ), kept AS (
        INSERT INTO ${waiter} AS i (ns, name, place, client, until) SELECT $1, r.name, r.place, $13, ${interestEnd}
        FROM req r WHERE r.place > 0
        ON CONFLICT (ns, name, place, client) DO UPDATE SET until = excluded.until
        RETURNING ${place}
      )
      SELECT ${answers({ n: 'r.n', place: 'p.place', ahead: 'p.ahead', full: 'r.is_full' })} INTO tickets
      FROM req r LEFT JOIN (SELECT * FROM given UNION ALL SELECT * FROM kept) p USING (name);
    END IF;
  END IF;
  IF taken_leases IS NOT NULL THEN
    -- It goes, and those ahead of it who were notified of the vacancy.
    DELETE FROM ${waiter} w USING (
      SELECT $1 AS ns, t.name, o.place FROM unnest(taken_leases, taken_places) AS t(name, place) CROSS JOIN LATERAL (
        (SELECT w.place FROM ${waiter} w WHERE w.ns = $1 AND w.name = t.name AND w.place > 0 AND w.place < t.place
          ORDER BY w.place LIMIT ${TOLD})
        UNION ALL SELECT t.place
      ) o ${inOrder}
    ) r WHERE (w.ns, w.name, w.place) >= (r.ns, r.name, r.place) AND (w.ns, w.name, w.place) <= (r.ns, r.name, r.place);
  END IF;${tell(tables, { channel: '$12', client: '$13', of: ['changed', 'taken'] })}`,
  )
}

/** Tickets of the lease of `r` up to the one that is named there. */
const upToTicket =
  '(w.ns, w.name, w.place) > (r.ns, r.name, 0::bigint) AND (w.ns, w.name, w.place) <= (r.ns, r.name, r.place)'

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
const extensions = answers({ n: 'up.n', ...pick('up', 'remaining', 'value', 'pinned', 'nonce', 'opened', 'weight') })

/**
 * $4 names, $5 holders, $6 tokens, $7 milliseconds, $8 values or null, $9 whether to notify, $10 nonces to be replaced and
 * $11 nonces to take their place, or null, $12 channel or null, $13 client or null.
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
    ['text[]', 'text[]', 'bigint[]', 'double precision[]', 'text[]', 'boolean[]', 'text[]', 'text[]', 'text', 'text'],
    `  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: `${matches('l')} AND ${live('l')} AND NOT ${valueTooLate('l')}`, lock: 'NO KEY UPDATE', read: 'l.value AS before' })}), up AS (
    UPDATE ${tables.lease} l SET expiry = greatest(l.expiry, ${expiryOf('r.ms')}), value = coalesce(r.value, l.value),
      valued = CASE WHEN r.value IS NULL THEN l.valued ELSE greatest(l.valued, least($2, asked)) END,
      opener = CASE WHEN l.nonce <> r.nonce THEN coalesce(l.opener, l.nonce) ELSE l.opener END,
      nonce = coalesce(r.nonce, l.nonce)
    FROM lk r WHERE ${lockedRow} AND ${live('l')} AND ${inTime}
    RETURNING r.n, r.name, r.announce AND l.value IS DISTINCT FROM r.before AS changed, ${returning}
  )
  SELECT ${extensions}, array_agg(up.n), array_agg(up.name) FILTER (WHERE up.changed)
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
  END IF;${tell(tables, { channel: '$12', client: '$13', of: ['changed'] })}`,
  )
}

const vacatedNow = `${vacated}, expiry = least(l.expiry, clock_timestamp())`
/** Vacates the row `l` where that is so. */
const vacatedIf = (condition: string): string =>
  ['holder = NULL', 'value = NULL', 'weight = -abs(l.weight)']
    .map((set) => set.split(' = ') as [string, string])
    .map(([column, value]) => `${column} = CASE WHEN ${condition} THEN ${value} ELSE l.${column} END`)
    .join(', ')

/** $4 names, $5 holders, $6 tokens, $7 nonces or null, $8 channel or null, $9 client or null. */
function release(tables: Tables): DatabaseFunction {
  const requests = operations('$4, $5, $6, $7', 'name, holder, token, nonce?')
  const matches = (row: string): string =>
    `${row}.holder = r.holder AND ${row}.token = r.token AND (r.nonce IS NULL OR ${row}.nonce = r.nonce)`
  return define(
    tables,
    'release',
    ['text[]', 'text[]', 'bigint[]', 'text[]', 'text', 'text'],
    `${entered(tables, '$8', '$9')}
  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: `${matches('l')} AND ${passed}`, lock: 'NO KEY UPDATE' })}), up AS (
    UPDATE ${tables.lease} l SET ${vacatedNow} FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, r.name, ${endedOf('$9')} AS ended
  )
  SELECT ${answers({ n: 'up.n' })}, array_agg(up.n), array_agg(up.name), array_agg(up.ended)
  INTO done, met, vacated_leases, vacated_by FROM up;
  vacated_ops := met;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone}), ${current(tables)}
    SELECT ${answers({ n: 'r.n', done: 'false', ...stateOf('cur'), mine: matches('cur'), late: `NOT ${inTime}` })}
    INTO others FROM req r LEFT JOIN cur USING (n);
  END IF;${tell(tables, { channel: '$8', client: '$9', of: ['vacated'] })}`,
  )
}

/**
 * $4 names, $5 holders, $6 nonces, $7 channel or null, $8 client or null.
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
    ['text[]', 'text[]', 'text[]', 'text', 'text'],
    `${entered(tables, '$7', '$8')}
  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: passed, lock: 'NO KEY UPDATE', read: hit })}), up AS (
    UPDATE ${lease} l SET ${vacatedNow} FROM lk r WHERE r.hit AND ${lockedRow} AND ${inTime}
    RETURNING r.n, r.name, ${endedOf('$8')} AS ended
  )
  SELECT ${answers({ n: 'up.n' })}, array_agg(up.n), array_agg(up.name), array_agg(up.ended),
    (SELECT array_agg(lk.n) FROM lk WHERE lk.hit IS NOT TRUE)
  INTO done, met, vacated_leases, vacated_by, missed FROM up;
  vacated_ops := met;
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
  END IF;${tell(tables, { channel: '$7', client: '$8', of: ['vacated'] })}`,
  )
}

/** $4 names, $5 channel or null, $6 client or null. */
function expire(tables: Tables): DatabaseFunction {
  return define(
    tables,
    'expire',
    ['text[]', 'text', 'text'],
    `${entered(tables, '$5', '$6')}
  WITH req AS MATERIALIZED (${operations('$4', 'name')} ${inOrder}), ${current(tables)},
  lk AS MATERIALIZED (${locked(tables, { from: 'req', where: `${lapsed('l')} AND ${passed}`, lock: 'UPDATE' })}), up AS (
    UPDATE ${tables.lease} l SET ${vacated} FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, r.name, ${endedOf('$6')} AS ended
  )
  SELECT ${answers({ n: 'r.n', done: 'up.n IS NOT NULL', ...stateOf('cur'), late: `NOT ${inTime}` })},
    ${['up.n', 'up.name', 'up.ended'].map((column) => `array_agg(${column}) FILTER (WHERE up.n IS NOT NULL)`).join(', ')}
  INTO others, vacated_ops, vacated_leases, vacated_by
  FROM req r LEFT JOIN up USING (n) LEFT JOIN cur USING (n);${tell(tables, { channel: '$5', client: '$6', of: ['vacated'] })}`,
  )
}

/** Of leases that had a holder `before`, those that have none now, as arrays. */
const vacatedIn = (row: string): string =>
  ['n', 'name', 'ended']
    .map((column) => `array_agg(${row}.${column}) FILTER (WHERE ${row}.before IS NOT NULL AND ${row}.holder IS NULL)`)
    .join(', ')

const pinArrays = '$4, $5, $6'
const pinColumns = 'name, entity, generation'
const pinParameters = ['text[]', 'text[]', 'text[]']
/** The generation of the pin by this entity. A release before the generations leaves them alone: it is the empty one then. */
const generationOf = (row: string): string => `coalesce(${row}.generations->r.entity->>0, '')`
/** Of each entity: the generation of its pin, and when it was set. */
const newGeneration = 'jsonb_build_object(r.entity, jsonb_build_array(r.generation, asked))'

/**
 * $4 names, $5 entities, $6 generations, $7 channel or null, $8 client or null.
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
  return define(
    tables,
    'pin',
    [...pinParameters, 'text', 'text'],
    `${entered(tables, '$7', '$8')}
  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: `NOT ${pinTooLate('l')} AND ${passed}`, lock: 'NO KEY UPDATE', read: 'l.holder AS before' })}), up AS (
    UPDATE ${lease} l SET ${vacatedIf(lapsed('l'))},
      pins = CASE WHEN ${pinned('l')} THEN l.pins ELSE l.pins || r.entity END,
      generations = CASE WHEN ${stands('l')} THEN l.generations ELSE coalesce(l.generations, '{}') || ${newGeneration} END
    FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, l.name, r.before, ${endedOf('$8')} AS ended, ${returning}
  )
  SELECT ${answers({ n: 'up.n', ...stateOf('up') })}, array_agg(up.n), ${vacatedIn('up')}
  INTO done, met, vacated_ops, vacated_leases, vacated_by FROM up;
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
  END IF;${tell(tables, { channel: '$7', client: '$8', of: ['vacated'] })}`,
  )
}

/**
 * $4 names, $5 entities, $6 generations, $7 channel or null, $8 client or null. The last pin gone past the expiry: vacated.
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
  return define(
    tables,
    'unpin',
    [...pinParameters, 'text', 'text'],
    `${entered(tables, '$7', '$8')}
  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} ${inOrder})`, where: passed, lock: 'NO KEY UPDATE', read: 'l.holder AS before' })}), up AS (
    UPDATE ${lease} l SET ${vacatedIf(freed)}, pins = ${left}, unpinned = asked,
      generations = CASE WHEN ${hit} THEN nullif(l.generations - r.entity, '{}') ELSE l.generations END
    FROM lk r WHERE ${lockedRow} AND ${inTime}
    RETURNING r.n, l.name, r.before, ${endedOf('$8')} AS ended, ${returning}
  )
  SELECT ${answers({ n: 'up.n', ...stateOf('up') })}, array_agg(up.n), ${vacatedIn('up')}
  INTO done, met, vacated_ops, vacated_leases, vacated_by FROM up;
  IF ${anyUndone} THEN
    WITH req AS MATERIALIZED (${requests} WHERE ${undone} ${inOrder}), ${current(tables)}, ins AS (
      INSERT INTO ${lease} AS l (ns, name, token, expiry, unpinned)
      SELECT $1, r.name, ${noTermYet(tables)}, clock_timestamp(), asked FROM req r WHERE ${noRow} AND ${inTime}
      ORDER BY r.name COLLATE "C" ON CONFLICT (ns, name) DO NOTHING RETURNING l.name
    )
    SELECT ${answers({ n: 'r.n', done: 'ins.name IS NOT NULL', ...stateOf('cur'), late: `NOT ${inTime}` })}
    INTO others FROM req r LEFT JOIN ins USING (name) LEFT JOIN cur USING (n);
  END IF;${tell(tables, { channel: '$7', client: '$8', of: ['vacated'] })}`,
  )
}

/** Of the leases in `req` with a ticket, whose row is locked, `met`, and which are held, `missed`. */
const lockedTickets = (tables: Tables, requests: string, afterLock = ''): string => `${entered(tables, '$6', '$7')}
  ${asynchronously}
  WITH lk AS MATERIALIZED (${locked(tables, { from: `(${requests} WHERE t.place > 0 ${inOrder})`, where: 'true', lock: 'SHARE', keep: 'r.n', read: returning })})
  SELECT array_agg(lk.n), array_agg(lk.n) FILTER (WHERE ${live('lk')}) INTO met, missed FROM lk;${afterLock}
  WITH req AS MATERIALIZED (${requests} ${inOrder}), ${current(tables)}, fit AS MATERIALIZED (
    SELECT r.*, $7 AS client, r.place > 0 AND r.n <> ALL(coalesce(missed, '{}')) AS is_vacant FROM req r
    WHERE (r.place = 0 OR r.n = ANY(met) OR ${noRow}) AND ${passed} AND ${inTime}
  )`
const left = answers({ n: 'r.n', done: 'fit.n IS NOT NULL', late: `NOT ${inTime}` })

/** $4 names, $5 tickets, 0 for none: then it watches no longer; $6 channel or null, $7 client. */
function leave(tables: Tables): DatabaseFunction {
  const { waiter } = tables
  const ahead = `(SELECT count(*) FROM (
        SELECT FROM ${waiter} o WHERE o.ns = $1 AND o.name = r.name AND o.place > 0 AND o.place < r.place AND ${inForce('o')} LIMIT ${TOLD}
      ) o)`
  return define(
    tables,
    'leave',
    ['text[]', 'bigint[]', 'text', 'text'],
    `${lockedTickets(tables, operations('$4, $5', 'name, place'))}, gone AS (
    DELETE FROM ${waiter} w USING fit r WHERE ${sameWaiter} RETURNING r.n, r.name, r.is_vacant AND ${ahead} < ${TOLD} AS matters
  )
  SELECT ${left}, array_agg(gone.n) FILTER (WHERE gone.matters), array_agg(gone.name) FILTER (WHERE gone.matters)
  INTO others, vacated_ops, vacated_leases
  FROM req r LEFT JOIN fit USING (n) LEFT JOIN gone USING (n);${tell(tables, { channel: '$6', client: '$7', of: ['queue'] })}`,
  )
}

/** $4 names, $5 tickets, $6 channel or null, $7 client. Of a counted lease nobody had a turn who did not fit. */
function passOver(tables: Tables): DatabaseFunction {
  const unlessFull = `
  IF of_shares THEN
    missed := missed || (
      SELECT array_agg(t.n) FROM unnest($4, ${fitting(insideOf(tables)).with(['$1', '$4'])}::text[]) WITH ORDINALITY AS t(name, fits, n)
      WHERE t.fits IS NULL
    );
  END IF;`
  return define(
    tables,
    'pass_over',
    ['text[]', 'bigint[]', 'text', 'text'],
    `${lockedTickets(tables, operations('$4, $5', 'name, place'), unlessFull)}, gone AS (
    DELETE FROM ${tables.waiter} w USING fit r WHERE r.is_vacant AND ${upToTicket}
  )
  SELECT ${left}, array_agg(fit.n) FILTER (WHERE fit.is_vacant), array_agg(fit.name) FILTER (WHERE fit.is_vacant)
  INTO others, vacated_ops, vacated_leases
  FROM req r LEFT JOIN fit USING (n);${tell(tables, { channel: '$6', client: '$7', of: ['queue'] })}`,
  )
}

/**
 * What is known of those of the named leases that meet the condition; null on a standby, which may be behind. $1 namespace,
 * $2 names. Answers as the operations do.
 */
function reading(tables: Tables, name: string, fields: Fields, condition: string): DatabaseFunction {
  return defineText(tables, name, ['text', 'text[]'], answering(fields, named(tables, condition)), byKey)
}

/** Of the leases that $2 names, the rows that meet the condition. */
const named = ({ lease }: Tables, condition: string): string => `unnest($2) AS r(name) CROSS JOIN LATERAL (
      SELECT l.* FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name AND ${condition} OFFSET 0
    ) l`

/** The same of all leases of the namespace. $1 namespace. */
function readingAll(tables: Tables, name: string, fields: Fields, condition: string): DatabaseFunction {
  const rows = `${tables.lease} l WHERE l.ns = $1 AND ${condition}`
  return defineText(tables, name, ['text'], answering(fields, rows, 'json_agg'), [])
}

type Fields = Readonly<Record<string, string>>
type Collect = Parameters<typeof answers>[1]

const answer = (fields: Fields, rows: string, collect?: Collect): string => `concat('[', ${micros}, ',', (
    SELECT ${answers(fields, collect)} FROM ${rows}
  ), ']')`

const answering = (fields: Fields, rows: string, collect?: Collect): string => `BEGIN
  IF pg_is_in_recovery() THEN RETURN NULL; END IF;
  RETURN ${answer({ name: 'l.name', ...fields }, rows, collect)};
END`

/**
 * The same as `read`, and the client watches some of the leases from that state on. $1 namespace, $2 names, $3 those to be watched, each once,
 * $4 client, $5 how many milliseconds to wait for a row.
 *
 * Rows are waited for: there is no answer that says "contended". A lease without a row gets one. Whatever is waited for here is locked
 * by those who wait for no row; insertions come last, and after them nothing is waited for.
 */
function watch(tables: Tables): DatabaseFunction {
  const { lease, waiter } = tables
  const names = `(SELECT t.name FROM unnest($3) AS t(name) ${inOrder})`
  const lock = (
    how: string,
  ): string => `PERFORM FROM (SELECT t.name FROM unnest($3) AS t(name) ${inOrder}) t CROSS JOIN LATERAL (
    SELECT FROM ${lease} l WHERE l.ns = $1 AND l.name = t.name FOR SHARE${how}
  ) l;
  GET DIAGNOSTICS locked = ROW_COUNT;`
  return defineText(
    tables,
    'watch',
    ['text', 'text[]', 'text[]', 'text', 'bigint'],
    `DECLARE
  locked bigint;
BEGIN
  IF pg_is_in_recovery() THEN RETURN NULL; END IF;
  PERFORM set_config('lock_timeout', $5::text, true);
  ${asynchronously}
  ${lock('')}
  IF locked < cardinality($3) THEN
    INSERT INTO ${lease} (ns, name, token, expiry) SELECT $1, t.name, ${noTermYet(tables)}, clock_timestamp() FROM ${names} t
    ON CONFLICT (ns, name) DO NOTHING;
    ${lock(' SKIP LOCKED')}
    IF locked < cardinality($3) THEN
      RAISE EXCEPTION 'another session is at the lease' USING ERRCODE = 'lock_not_available';
    END IF;
  END IF;
  INSERT INTO ${waiter} (ns, name, place, client, until) SELECT $1, t.name, 0, $4, ${interestEnd} FROM ${names} t
  ON CONFLICT (ns, name, place, client) DO UPDATE SET until = excluded.until;
  RETURN ${answer({ name: 'l.name', ...stateOf('l') }, named(tables, live('l')))};
END`,
    byKey,
  )
}

/** $1 namespace, $2 whose interest it is. */
function watchAll({ waiter, ...tables }: Tables): DatabaseFunction {
  return defineText(
    tables,
    'watch_all',
    ['text', 'text'],
    `BEGIN
  ${asynchronously}
  INSERT INTO ${waiter} (ns, name, place, client, until) VALUES ($1, '', 0, $2, ${interestEnd})
  ON CONFLICT (ns, name, place, client) DO UPDATE SET until = excluded.until;
  RETURN NULL;
END`,
    byKey,
  )
}

/** How long after it was asked for a claim may have been committed whose holder has been notified of it, in microseconds. */
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

/**
 * Nobody has held the lease for so long that nothing needs to be remembered of it. $2 retention in milliseconds. A share that has a weight
 * still counts.
 */
const isOld = `l.pins = '{}' AND NOT ${live('l')} AND l.weight IS NULL
    AND l.expiry < clock_timestamp() - greatest($2, ${LONGEST_DEADLINE_MS}) * interval '1 millisecond'
    AND coalesce(l.unpinned, 0) < ${micros} - ${LONGEST_DEADLINE_MS * 1000}`

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

/** Removes what was not renewed of those who wait. $1 namespace. */
function forget({ waiter, ...tables }: Tables): DatabaseFunction {
  return defineText(
    tables,
    'forget',
    ['text'],
    `BEGIN
  DELETE FROM ${waiter} w USING (
    SELECT w.* FROM ${waiter} w WHERE w.ns = $1 AND NOT ${inForce('w')} FOR UPDATE SKIP LOCKED
  ) r WHERE ${sameWaiter};
  RETURN NULL;
END`,
    byKey,
  )
}
