/**
 * Counted leases, as functions of the database: the claim of a share, the definition, and what others need to know of them.
 *
 * One row of the counted lease decides each grant (`counts`). It has the capacity, the sum of the weights that count (`used`), and an
 * instant before which no share lapses (`sweep`). A share is a row like that of every lease, with its weight:
 *
 *     weight > 0   it is held, or has lapsed and nobody came across that
 *     weight < 0   it was released, revoked or has expired: it counts until a claim has got past its guards
 *     NULL         it does not count
 *
 * A claim that fits into what `used` leaves reads no other share. One that does not fit first clears what is over (`sweep`):
 * the rows with a negative weight, which the index has side by side, and those that have lapsed, once one may have.
 *
 * The rules of functions.ts hold, and these:
 *
 * - *The row of the counted lease is locked before those of its shares*: by the claim of a share and by `define` FOR UPDATE, by anyone who
 *   may end a share FOR SHARE, or FOR NO KEY UPDATE while somebody waits (`entering`). These wait for it, for a moment: others have it
 *   until their COMMIT. Anyone who has it waits for no row but one that is new.
 * - *A claim decides by a statement that begins when it has the lock*: it sees all grants before it.
 * - *A weight does not count any more once its row was locked FOR UPDATE* after the end of the share. A row that is not to be had counts: a
 *   guard may have it, or an extension that is not committed. Where that alone keeps a claim out it is `contended`, and not refused.
 *
 * | what meets | what happens |
 * |---|---|
 * | two claims of shares | the second waits for the COMMIT of the first, and decides by what is there then |
 * | a claim, and a guard of a share that was released, revoked or has lapsed | the guard has the row: it counts until the guard's transaction ends |
 * | a claim, and an extension of a share that has lapsed by the snapshot | the extension has the row, or has committed: the lock is not to be had, or finds it live |
 * | a claim that gets a ticket, and the end of a share | the lock is with one of them: the claim sees the end, or anyone who ends it waits, and then sees the ticket |
 * | two ends of shares while somebody waits | one after the other: the second sees what both have freed |
 * | two ends of shares, and a ticket that comes between | each sees that it is not alone, and notifies the first (`fitting`) |
 * | a claim that gets a ticket in REPEATABLE READ | it may not see an end before it: it is sent once more with the ticket (postgres-substrate.ts) |
 * | the end of a share in REPEATABLE READ, or by a role that may not see the queue | everyone in the namespace is notified |
 * | an earlier release that ends or removes a share | it knows no weights: the sum is added up again every ten seconds where somebody needs room |
 */
import { DEFINITION_MS, LONGEST_DEADLINE_MS, TOLD } from 'lease-core/adapter'
import {
  asynchronously,
  boundedWait,
  byKey,
  countedOf,
  define,
  defineText,
  expiryOf,
  insideOf,
  interestEnd,
  inTime,
  lockedRow,
  MOMENT_MS,
  operations,
  overtaken,
  pick,
  returning,
  seesCommits,
  tooLate,
  vacated,
  waiting,
  type DatabaseFunction,
} from './function-text.ts'
import { CLIENT_CHANNEL, type Tables } from './schema.ts'
import { answers, live, micros, microsOf, stateOf } from './sql.ts'
import { fitting, tell } from './telling.ts'

/** So often at most the weights are added up again, and at least while somebody needs room. */
const SWEEP_MICROS = 10_000_000

const isForgotten = LONGEST_DEADLINE_MS * 1000

/** A standby may be behind, and has no table of those who wait. */
const notOnStandby = `IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'the server is a standby' USING ERRCODE = 'read_only_sql_transaction';
  END IF;`

/** The rows `l` of the shares of this counted lease that have a weight like this. */
const sharesOf = ({ lease }: Tables, name: string, weight: string): string =>
  `${lease} l WHERE l.ns = $1 AND ${countedOf('l.name')} = ${name} AND l.weight ${weight}`

/** The answer to the operation `r`, or something more about it. */
const say = (fields: Readonly<Record<string, string>>): string => {
  const all = Object.entries({ n: 'r.n', ...fields }).map(([name, value]) => `'${name}', json_build_array(${value})`)
  return `pieces := array_append(pieces, json_build_object(${all.join(', ')})::text);`
}
const undone = { done: 'false', late: `NOT ${inTime}` }
const tooLateNow = { done: 'false', late: 'true' }

const declarations = `
  pieces text[];           -- the answers
  r record;                -- the operation
  own record;              -- the row of its share
  counts record;           -- the row of the counted lease
  is_found boolean;
  is_kept boolean;         -- what was done must outlive a crash
  is_defined boolean;      -- by this claim
  is_next boolean;         -- nobody ahead is passed by who may not be
  is_over boolean;         -- there is no room
  room bigint;
  need bigint;             -- how much room there must be
  ahead bigint;
  heaviest bigint;
  skipped bigint;          -- the weights that may be over, in rows that others have locked
  fencing bigint;
  ticket bigint;
  vain text[];             -- the clients of those who wait in vain,
  vain_places bigint[];    -- and their tickets`
const more = { declarations, answers: [`array_to_string(pieces, ',')`] }

/**
 * `counts` is the row of the counted lease of `r`, locked, or the operation is over. A lone one waits for the row for a moment.
 *
 * @param missing what is done where there is none; it goes on with the one that is made afterwards
 */
const withCounts = ({ counts }: Tables, name: string, missing: string): string => {
  const row = `SELECT c.* INTO counts FROM ${counts} c WHERE c.ns = $1 AND c.name = ${name} FOR UPDATE`
  return `${row} SKIP LOCKED;
    is_found := FOUND;
    IF NOT is_found AND cardinality($4) = 1 THEN
      PERFORM set_config('lock_timeout', '${MOMENT_MS}', true);
      ${row};
      is_found := FOUND;
      ${boundedWait}
    END IF;
    IF NOT is_found THEN
      IF EXISTS (SELECT FROM ${counts} c WHERE c.ns = $1 AND c.name = ${name}) THEN
        ${say(undone)}
        CONTINUE;
      END IF;
      ${missing}
      INSERT INTO ${counts} AS c (ns, name) SELECT $1, ${name} WHERE ${inTime} ON CONFLICT (ns, name) DO NOTHING
      RETURNING c.* INTO counts;
      IF NOT FOUND THEN
        ${say(undone)}
        CONTINUE;
      END IF;
    END IF;`
}

/** The generations of earlier definitions, with the one that is over now. */
const formerly = `(
        SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') FROM jsonb_each(counts.former) f WHERE f.value::bigint > ${micros} - ${isForgotten}
      ) || CASE WHEN counts.generation IS NULL THEN '{}' ELSE jsonb_build_object(counts.generation, asked) END`

/** There was a definition of this generation, and it is over. */
const isFormer = (generation: string): string =>
  `coalesce((counts.former->>${generation})::bigint > ${micros} - ${isForgotten}, false)`

/**
 * $4 names, $5 holders, $6 nonces, $7 milliseconds, $8 values, $9 whether to notify, $10 weights, $11 capacities or null, $12 how many
 * of those ahead are passed, $13 places, 0 for none, or null, $14 how many may wait, or null, $15 channel or null, $16 client, or null where
 * this role may not see who waits.
 */
export function claimShare(tables: Tables): DatabaseFunction {
  const { lease, waiter, counts, floor } = tables
  const requests = operations(
    '$4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14',
    'name, holder, nonce, ms, value?, announce, weight, capacity?, passing, place?, most?',
  )
  const key = 'l.ns = $1 AND l.name = r.name'
  const mine = (row: string): string => `${row}.holder = r.holder AND ${row}.nonce = r.nonce`
  const inner = insideOf(tables)
  const shown = (limit: string): string => `${counted(inner).with(['$1', 'r.counted', limit])}::json`
  const refuse = say({ done: 'false', refused: 'true', late: `NOT ${inTime}` })
  const show = say({ counted: shown('1') })
  const ownWeight = 'coalesce(abs(own.weight), 0)'
  const roomNow = `room := counts.capacity - (counts.used - ${ownWeight});`
  const keepDefinition = `UPDATE ${counts} c SET capacity = counts.capacity, generation = counts.generation, until = counts.until, former = counts.former
        WHERE c.ns = $1 AND c.name = r.counted;`
  return define(
    tables,
    'claim_share',
    [
      'text[]',
      'text[]',
      'text[]',
      'double precision[]',
      'text[]',
      'boolean[]',
      'bigint[]',
      'text[]',
      'bigint[]',
      'text[]',
      'text[]',
      'text',
      'text',
    ],
    `  ${notOnStandby}
  of_shares := true;
  FOR r IN
    SELECT t.n, t.name, t.holder, t.nonce, t.ms, t.value, t.announce, t.weight::int AS weight, t.capacity::int AS capacity, t.passing,
      t.place::bigint AS place, t.most::bigint AS most, ${countedOf('t.name')} AS counted
    FROM (${requests}) t ORDER BY t.name COLLATE "C"
  LOOP
    -- 1. Its own share stands: that is its own concern.
    SELECT ${returning}, ${live('l')} AS is_live INTO own FROM ${lease} l WHERE ${key};
    IF own.is_live THEN
      IF ${mine('own')} THEN
        SELECT ${returning} INTO own FROM ${lease} l WHERE ${key} AND ${mine('l')} AND ${live('l')} AND ${inTime} FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND THEN
          is_kept := true;
          ${say(stateOf('own'))}
        ELSE
          ${say(undone)}
        END IF;
      ELSE
        ${say({ ...undone, refused: 'true', ...stateOf('own') })}
      END IF;
      CONTINUE;
    END IF;

    -- 2. The counted lease.
    ${withCounts(
      tables,
      'r.counted',
      `IF r.capacity IS NULL THEN
        ${refuse}
        ${show}
        CONTINUE;
      END IF;`,
    )}

    -- 3. Its own row, past the guards of earlier terms.
    SELECT ${returning}, l.opener, ${live('l')} AS is_live INTO own FROM ${lease} l WHERE ${key} FOR UPDATE SKIP LOCKED;
    is_found := FOUND;
    IF NOT is_found AND EXISTS (SELECT FROM ${lease} l WHERE ${key}) THEN
      ${say(undone)}
      CONTINUE;
    ELSIF own.is_live THEN
      ${say({ ...undone, refused: `NOT (${mine('own')})`, ...stateOf('own') })}
      CONTINUE;
    ELSIF NOT ${inTime} OR is_found AND ${tooLate('own', 'r.nonce')} THEN
      ${say(tooLateNow)}
      CONTINUE;
    END IF;

    -- 4. The definition.
    is_defined := counts.capacity IS NULL AND r.capacity IS NOT NULL;
    IF is_defined THEN
      IF ${isFormer('r.nonce')} OR coalesce(${overtaken('counts.ended')}, false) THEN
        ${say(tooLateNow)}
        CONTINUE;
      END IF;
      counts.former := ${formerly};
      counts.capacity := r.capacity;
      counts.generation := r.nonce;
      counts.until := ${expiryOf(`(r.ms + ${DEFINITION_MS})`)};
    END IF;
    IF counts.capacity IS NULL OR r.weight > counts.capacity OR r.capacity <> counts.capacity THEN
      ${refuse}
      ${show}
      CONTINUE;
    END IF;

    -- 5. Room, for it and for all whom it passes.
    is_next := true;
    need := r.weight;
    IF $16 IS NOT NULL THEN
      SELECT count(*), max(coalesce(w.weight, 1)) INTO ahead, heaviest FROM (
        SELECT w.weight FROM ${waiter} w WHERE ${waiting('r.counted')} AND (coalesce(r.place, 0) = 0 OR w.place < r.place)
        ORDER BY w.place LIMIT r.passing + 1
      ) w;
      is_next := ahead <= r.passing;
      IF is_next THEN
        need := greatest(need, heaviest);
      END IF;
    END IF;
    skipped := 0;
    ${roomNow}
    IF need > room THEN
      skipped := ${sweep(inner).with(['$1', 'r.counted'])}::bigint;
      SELECT c.used, c.sweep INTO counts.used, counts.sweep FROM ${counts} c WHERE c.ns = $1 AND c.name = r.counted;
      SELECT l.weight INTO own.weight FROM ${lease} l WHERE ${key};
      ${roomNow}
    END IF;
    IF is_next AND need > room AND need <= room + skipped THEN
      ${say(undone)}
      CONTINUE;
    END IF;

    -- 6. No.
    IF need > room OR NOT is_next THEN
      is_over := r.weight > room;
      IF is_defined THEN
        is_kept := true;
        ${keepDefinition}
      END IF;
      ${refuse}
      ${show}
      IF $16 IS NULL THEN
        CONTINUE;
      END IF;
      -- One that has met nothing but tickets sees to those who do not come: they may have died.
      IF NOT is_over AND r.place IS DISTINCT FROM 0 THEN
        vacated_ops := vacated_ops || r.n;
        vacated_leases := vacated_leases || r.counted;
      ELSIF NOT is_over AND r.place = 0 AND (${fitting(inner).with(['$1', 'ARRAY[r.counted]'])}::text[])[1] IS NOT NULL THEN
        ${say({ told: `(SELECT max(w.place) FROM (SELECT w.place FROM ${waiter} w WHERE ${waiting('r.counted')} ORDER BY w.place LIMIT ${TOLD}) w)` })}
      END IF;
      IF r.place IS NULL THEN
        CONTINUE;
      ELSIF r.place = 0 AND is_over AND (SELECT count(*) FROM ${waiter} w WHERE ${waiting('r.counted')}) >= r.most THEN
        ${say({ place: 'NULL::bigint', full: 'true' })}
      ELSE
        IF r.place = 0 THEN
          INSERT INTO ${waiter} AS w (ns, name, client, until, weight) VALUES ($1, r.counted, $16, ${interestEnd}, r.weight)
          RETURNING w.place INTO ticket;
        ELSE
          ticket := r.place;
          INSERT INTO ${waiter} AS w (ns, name, place, client, until, weight) VALUES ($1, r.counted, r.place, $16, ${interestEnd}, r.weight)
          ON CONFLICT (ns, name, place, client) DO UPDATE SET until = excluded.until, weight = excluded.weight;
        END IF;
        ${say({
          place: 'ticket',
          ahead: `(SELECT count(*) FROM ${waiter} w WHERE ${waiting('r.counted')} AND w.place < ticket)`,
          blind: `r.place = 0 AND NOT ${seesCommits}`,
        })}
      END IF;
      CONTINUE;
    END IF;

    -- 7. Yes. Tokens rise over all shares.
    fencing := greatest(asked, own.token + 1, counts.token + 1, (SELECT f.token + 1 FROM ${floor} f WHERE f.ns = $1));
    ahead := ${ownWeight};
    IF is_found THEN
      UPDATE ${lease} l SET holder = r.holder, nonce = r.nonce, opener = NULL, value = r.value, weight = r.weight, expiry = ${expiryOf('r.ms')},
        token = fencing, opened = CASE WHEN fencing > asked THEN asked END
      WHERE ${key} AND ${inTime} RETURNING ${returning}, true AS in_time INTO own;
    ELSE
      INSERT INTO ${lease} AS l (ns, name, holder, nonce, value, weight, expiry, token, opened)
      SELECT $1, r.name, r.holder, r.nonce, r.value, r.weight, ${expiryOf('r.ms')}, fencing, CASE WHEN fencing > asked THEN asked END WHERE ${inTime}
      ON CONFLICT (ns, name) DO NOTHING RETURNING ${returning}, ${inTime} AS in_time INTO own;
    END IF;
    IF own.in_time IS NOT TRUE THEN
      IF FOUND THEN
        DELETE FROM ${lease} l WHERE ${key};
      END IF;
      ${say(undone)}
      CONTINUE;
    END IF;
    is_kept := true;
    UPDATE ${counts} c SET capacity = counts.capacity, generation = counts.generation, former = counts.former,
      until = CASE WHEN counts.until IS NOT NULL THEN greatest(counts.until, ${expiryOf(`(r.ms + ${DEFINITION_MS})`)}) END,
      used = counts.used - ahead + r.weight, sweep = least(counts.sweep, ${microsOf('own.expiry')}), token = fencing
    WHERE c.ns = $1 AND c.name = r.counted;
    ${say(pick('own', 'token', 'remaining', 'pinned', 'opened', 'weight'))}
    IF r.announce THEN
      changed_leases := changed_leases || r.name;
    END IF;
    IF $16 IS NOT NULL AND (${seesCommits} OR counts.used - ahead + r.weight < counts.capacity) THEN
      vacated_ops := vacated_ops || r.n;
      vacated_leases := vacated_leases || r.counted;
    END IF;
    IF $16 IS NOT NULL AND r.place > 0 THEN
      taken_leases := taken_leases || r.counted;
      taken_places := taken_places || r.place;
      taken_ms := taken_ms || ceil(r.ms)::bigint;
      -- It goes, and those ahead of it who were notified.
      DELETE FROM ${waiter} w USING (
        (SELECT w.place FROM ${waiter} w WHERE w.ns = $1 AND w.name = r.counted AND w.place > 0 AND w.place < r.place
          ORDER BY w.place LIMIT ${TOLD})
        UNION ALL SELECT r.place
      ) o WHERE (w.ns, w.name, w.place) >= ($1, r.counted, o.place) AND (w.ns, w.name, w.place) <= ($1, r.counted, o.place);
    END IF;
  END LOOP;
  IF is_kept IS NOT TRUE THEN
    ${asynchronously}
  END IF;${tell(tables, { channel: '$15', client: '$16', of: ['queue', 'changed', 'taken'] })}`,
    more,
  )
}

/** $4 names, $5 capacities or null, $6 generations seen or null, $7 new generations, $8 channel or null, $9 client or null. */
export function defineCounted(tables: Tables): DatabaseFunction {
  const { counts, waiter } = tables
  const requests = operations('$4, $5, $6, $7', 'name, capacity?, seen?, generation')
  const shown = (limit: string): string => `${counted(insideOf(tables)).with(['$1', 'r.name', limit])}::json`
  const refuse = `${say({ ...undone, refused: 'true' })}
      ${say({ counted: shown('1') })}`
  return define(
    tables,
    'define',
    ['text[]', 'text[]', 'text[]', 'text[]', 'text', 'text'],
    `  of_shares := true;
  FOR r IN
    SELECT t.n, t.name, t.capacity::int AS capacity, t.seen, t.generation FROM (${requests}) t ORDER BY t.name COLLATE "C"
  LOOP
    ${withCounts(
      tables,
      'r.name',
      `IF r.seen IS NOT NULL THEN
        ${refuse}
        CONTINUE;
      END IF;`,
    )}
    IF counts.generation = r.generation THEN
      is_found := ${inTime};
    ELSIF ${isFormer('r.generation')} OR r.seen IS NULL AND coalesce(${overtaken('counts.ended')}, false) THEN
      is_found := false;
    ELSIF (CASE WHEN counts.capacity IS NOT NULL THEN counts.generation END) IS DISTINCT FROM r.seen THEN
      ${refuse}
      CONTINUE;
    ELSE
      UPDATE ${counts} c SET capacity = r.capacity, generation = r.generation, until = NULL, former = ${formerly},
        ended = CASE WHEN r.capacity IS NULL THEN asked ELSE c.ended END
      WHERE c.ns = $1 AND c.name = r.name AND ${inTime};
      is_found := FOUND;
    END IF;
    IF NOT is_found THEN
      ${say(tooLateNow)}
      CONTINUE;
    END IF;
    ${say({ done: 'true' })}
    ${say({ counted: shown('NULL') })}
    IF $9 IS NOT NULL THEN
      -- Those who cannot get a share any more are to find that out, and block nobody if they do not.
      WITH d AS (
        DELETE FROM ${waiter} w USING (
          SELECT w.* FROM ${waiter} w WHERE ${waiting('r.name')} AND coalesce(w.weight, 1) > coalesce(r.capacity, 0) FOR UPDATE SKIP LOCKED
        ) o WHERE (w.ns, w.name, w.place, w.client) >= (o.ns, o.name, o.place, o.client)
          AND (w.ns, w.name, w.place, w.client) <= (o.ns, o.name, o.place, o.client)
        RETURNING w.client, w.place
      )
      SELECT array_agg(d.client), array_agg(d.place) INTO vain, vain_places FROM d;
      IF vain IS NOT NULL AND $8 IS NOT NULL AND has_function_privilege('pg_notify(text, text)', 'EXECUTE') THEN
        PERFORM pg_notify('${CLIENT_CHANNEL}' || v.client, json_build_object('vacated', json_build_array(json_build_array(r.name, v.place, 0)))::text)
        FROM unnest(vain, vain_places) AS v(client, place);
      END IF;
    END IF;
    vacated_ops := vacated_ops || r.n;
    vacated_leases := vacated_leases || r.name;
  END LOOP;${tell(tables, { channel: '$8', client: '$9', of: ['queue'] })}`,
    more,
  )
}

/**
 * Locks the counted leases of these names, if there are any, for those who may end a share or leave a queue: until the COMMIT nobody
 * is granted a share or gets into the queue. While somebody waits only one has the lock. Answers those that others have had for
 * longer than a moment: nothing may be done to their shares. $1 namespace, $2 names.
 */
export function entering(tables: Tables): DatabaseFunction {
  const { prefix, counts, waiter } = tables
  const lock = (from: string, how: string): string =>
    `SELECT r.name FROM ${from} r CROSS JOIN LATERAL (
      SELECT FROM ${counts} c WHERE c.ns = $1 AND c.name = r.name FOR ${how}
    ) c`
  return defineText(
    { prefix },
    'entering',
    ['text', 'text[]'],
    `DECLARE
  missing text[];
BEGIN
  ${notOnStandby}
  WITH req AS MATERIALIZED (
    SELECT t.name, EXISTS (SELECT FROM ${waiter} w WHERE ${waiting('t.name')}) AS is_awaited FROM (
      SELECT DISTINCT ${countedOf('n.name')} AS name FROM unnest($2) AS n(name)
    ) t WHERE t.name <> '' ORDER BY t.name COLLATE "C"
  ), shared AS MATERIALIZED (${lock('(SELECT * FROM req WHERE NOT is_awaited)', 'SHARE SKIP LOCKED')}),
  alone AS MATERIALIZED (${lock('(SELECT * FROM req WHERE is_awaited)', 'NO KEY UPDATE SKIP LOCKED')})
  SELECT array_agg(r.name) INTO missing FROM req r
  WHERE NOT EXISTS (SELECT FROM shared s WHERE s.name = r.name) AND NOT EXISTS (SELECT FROM alone a WHERE a.name = r.name)
    AND EXISTS (SELECT FROM ${counts} c WHERE c.ns = $1 AND c.name = r.name);
  IF missing IS NULL THEN RETURN NULL; END IF;
  BEGIN
    PERFORM set_config('lock_timeout', '${MOMENT_MS}', true);
    PERFORM FROM (${lock('(SELECT m.name FROM unnest(missing) AS m(name) ORDER BY m.name COLLATE "C")', 'NO KEY UPDATE')}) l;
    RETURN NULL;
  EXCEPTION WHEN lock_not_available THEN
    RETURN missing::text;
  END;
END`,
    byKey,
  )
}

/** For operations that may end shares: `blocked`. Needs $3 and $4, the names. */
export const entered = (
  tables: Tables,
  channel: string,
  client: string,
): string => `  of_shares := strpos(array_to_string($4, ''), '#') > 0;
  IF of_shares AND ${channel} IS NOT NULL AND ${client} IS NOT NULL AND ${seesCommits} THEN
    blocked := ${entering(insideOf(tables)).with(['$1', '$4'])}::text[];
    ${boundedWait}
  END IF;`
/** Nobody else has the counted lease of the operation `r`. */
export const passed: string = `(blocked IS NULL OR ${countedOf('r.name')} <> ALL(blocked))`

/**
 * Clears the weights of shares that are over, past their guards, and says how much more may be over, in rows that others have locked.
 * $1 namespace, $2 counted lease, whose row the caller has locked FOR UPDATE.
 *
 * Those that were ended are few, and the index has them side by side. All shares are looked at once one may have lapsed: each time, while a
 * pin keeps one beyond its time, which may be extended, and lapse soon after its pin is withdrawn.
 */
export function sweep(tables: Tables): DatabaseFunction {
  const { prefix, lease, counts } = tables
  const isOver = (row: string): string => `(${row}.weight < 0 OR NOT ${live(row)})`
  const clearing = (over: string): string => `lk AS MATERIALIZED (
    SELECT o.ns, o.name, o.weight FROM (SELECT * FROM o WHERE ${over} ORDER BY o.name) o CROSS JOIN LATERAL (
      SELECT FROM ${lease} l WHERE l.ns = $1 AND l.name = o.name AND ${isOver('l')} FOR UPDATE SKIP LOCKED
    ) l
  ), up AS (
    UPDATE ${lease} l SET ${vacated.replace('-abs(l.weight)', 'NULL')} FROM lk r WHERE ${lockedRow}
  )`
  const cleared = `coalesce((SELECT sum(lk.weight) FROM lk), 0)`
  return defineText(
    { prefix },
    'sweep',
    ['text', 'text'],
    `DECLARE
  over bigint;     -- what is over
  cleared bigint;  -- of that, what does not count any more
  kept bigint;     -- the sum of all weights before; NULL: not added up
  first bigint;    -- no share lapses before
BEGIN
  IF (SELECT c.sweep <= ${micros} FROM ${counts} c WHERE c.ns = $1 AND c.name = $2) THEN
    WITH o AS MATERIALIZED (
      SELECT l.ns, l.name, abs(l.weight) AS weight, l.expiry, ${isOver('l')} AS is_over FROM ${sharesOf(tables, '$2', 'IS NOT NULL')}
    ), ${clearing('o.is_over')}
    SELECT coalesce(sum(o.weight), 0), coalesce(sum(o.weight) FILTER (WHERE o.is_over), 0), ${cleared},
      least(${microsOf('min(o.expiry) FILTER (WHERE NOT o.is_over)')}, ${micros} + ${SWEEP_MICROS})
    INTO kept, over, cleared, first FROM o;
  ELSE
    WITH o AS MATERIALIZED (
      SELECT l.ns, l.name, abs(l.weight) AS weight FROM ${sharesOf(tables, '$2', '< 0')}
    ), ${clearing('true')}
    SELECT coalesce(sum(o.weight), 0), ${cleared} INTO over, cleared FROM o;
  END IF;
  IF cleared > 0 OR kept IS NOT NULL THEN
    -- What could not be cleared is looked for again by the next claim.
    UPDATE ${counts} c SET used = coalesce(kept, c.used) - cleared, sweep = CASE WHEN first IS NULL OR over > cleared THEN c.sweep ELSE first END
    WHERE c.ns = $1 AND c.name = $2;
  END IF;
  RETURN over - cleared;
END`,
    byKey,
  )
}

/**
 * A counted lease, with those of its shares that lapse first, as many as are asked for; null on a standby, which may be behind. $1
 * namespace, $2 counted lease, $3 how many shares, or null for all.
 */
export function counted(tables: Tables): DatabaseFunction {
  const { prefix, counts } = tables
  return defineText(
    { prefix },
    'counted',
    ['text', 'text', 'bigint'],
    `DECLARE
  at timestamptz := clock_timestamp();  -- read once: there may be thousands of shares
BEGIN
  IF pg_is_in_recovery() THEN RETURN NULL; END IF;
  RETURN (
    SELECT json_build_array(${micros}, json_build_object(
      'capacity', c.capacity, 'generation', CASE WHEN c.capacity IS NOT NULL THEN c.generation END,
      'shares', (
        SELECT ${answers({ name: 'l.name', ...stateOf('l') })} FROM (
          SELECT l.* FROM ${sharesOf(tables, '$2', '> 0')} AND l.holder IS NOT NULL AND (l.expiry > at OR l.pins <> '{}')
          ORDER BY l.pins <> '{}', l.expiry LIMIT $3
        ) l
      )
    )) FROM (SELECT) one LEFT JOIN ${counts} c ON c.ns = $1 AND c.name = $2
  )::text;
END`,
    byKey,
  )
}

/** For `collect`: the names of counted leases after $2, at most $3 of them, in their order. $1 namespace. */
export function findCounts({ prefix, counts }: Tables): DatabaseFunction {
  return defineText(
    { prefix },
    'find_counts',
    ['text', 'text', 'bigint'],
    `BEGIN
  RETURN (
    SELECT json_agg(c.name) FROM (
      SELECT c.name FROM ${counts} c WHERE c.ns = $1 AND c.name > $2 ORDER BY c.name LIMIT $3
    ) c
  );
END`,
    byKey,
  )
}

/**
 * For `collect`: clears what is over in these counted leases, and removes those that nobody needs to know of. $1 namespace, $2 retention
 * in milliseconds, $3 names. The transaction must be READ COMMITTED.
 */
export function tidy(tables: Tables): DatabaseFunction {
  const { prefix, counts, waiter, floor } = tables
  const longAgo = `interval '1 millisecond' * greatest($2, ${LONGEST_DEADLINE_MS})`
  return defineText(
    { prefix },
    'tidy',
    ['text', 'double precision', 'text[]'],
    `DECLARE
  one record;
BEGIN
  FOR one IN SELECT t.name FROM unnest($3) AS t(name) ORDER BY t.name COLLATE "C" LOOP
    PERFORM FROM ${counts} c WHERE c.ns = $1 AND c.name = one.name FOR UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    PERFORM ${sweep(insideOf(tables)).with(['$1', 'one.name'])};
    WITH d AS (
      DELETE FROM ${counts} c WHERE c.ns = $1 AND c.name = one.name
        AND CASE WHEN c.capacity IS NOT NULL THEN c.until < clock_timestamp() - ${longAgo}
          ELSE coalesce(c.ended, 0) < ${microsOf(`(clock_timestamp() - ${longAgo})`)} END
        AND NOT EXISTS (SELECT FROM ${sharesOf(tables, 'one.name', 'IS NOT NULL')})
        AND NOT EXISTS (SELECT FROM ${waiter} w WHERE ${waiting('one.name')})
      RETURNING c.token
    )
    INSERT INTO ${floor} AS f (ns, token) SELECT $1, d.token FROM d
    ON CONFLICT (ns) DO UPDATE SET token = greatest(f.token, excluded.token);
  END LOOP;
  RETURN NULL;
END`,
    byKey,
  )
}
