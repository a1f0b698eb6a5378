/**
 * An account for each lease, to which its holders write their fencing tokens: on each kind of store by each kind of guard, and
 * without one. The store itself says in which order terms began and writes were done.
 */
import { ErrNotHeld, type Substrate } from 'lease-core'
import type { Report, StoreAddress, StoreEvent } from 'lease-chaos'
import { EtcdGuard, EtcdSubstrate, failFast } from 'lease-etcd'
import { PostgresSubstrate, SqlGuard } from 'lease-postgres'
import { RedisGuard, RedisSubstrate } from 'lease-redis'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import { newCall, sleep } from 'lease-scenes'
import { Pool, type PoolClient } from 'pg'

/** A term in which its holder writes. */
export interface Stint {
  readonly lease: string
  readonly holder: string
  readonly token: bigint
}

/** One who writes to accounts, with connections of its own. */
export interface Teller {
  readonly substrate: Substrate
  /** Notes a grant down, where the store does not do so by itself. */
  granted?(stint: Stint): Promise<unknown>
  /** Writes in this way. Resolves to the revision of the write, where the store has one. @throws ErrNotHeld when it was refused */
  write(way: string, stint: Stint): Promise<string | void>
}

/** What the judge of a race knows. */
export interface Ledger extends AsyncDisposable {
  open(leases: readonly string[]): Promise<void>
  /** What happened to these accounts, in order. */
  read(leases: readonly string[], reports: readonly Report[]): Promise<readonly StoreEvent[]>
}

/** A kind of store. */
export interface Kind {
  /** Guards of all kinds. */
  readonly guarded: readonly string[]
  readonly leases: number
  readonly grants: number
  /** The longest that a holder hesitates: shorter or longer than its lease. */
  readonly pauseMs: number
  openTeller(address: StoreAddress): Teller
  openLedger(address: StoreAddress): Ledger
}

/** The control: in time when it looks, perhaps not when it writes. */
export const UNGUARDED = 'a check before the write instead'

async function lookFirst(substrate: Substrate, { lease, holder, token }: Stint): Promise<void> {
  const held = (await substrate.read([lease], newCall())).get(lease)
  if (held?.holder !== holder || held.fencingToken !== token) throw new ErrNotHeld('not held')
}

// ── PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────────────

const postgres: Kind = {
  guarded: ['a connection as key', 'a SqlGuard'],
  leases: 12,
  grants: 400,
  pauseMs: 12,
  openTeller({ url, namespace }) {
    const substrate = new PostgresSubstrate({ pool: new Pool({ connectionString: url, max: 1 }), namespace })
    const pool = new Pool({ connectionString: url, max: 1 })
    const update = 'UPDATE account SET token = $1 WHERE lease = $2'
    type Write = (client: PoolClient, stint: Stint) => Promise<unknown>
    const ways: Record<string, Write> = {
      'a connection as key': async (client, { lease, holder, token }) => {
        await substrate.trapdoor(lease, holder, token)(client)
        await hesitate(postgres)
        await client.query(update, [String(token), lease])
      },
      'a SqlGuard': async (client, { lease, holder, token }) => {
        const guard = new SqlGuard(3)
        await substrate.trapdoor(lease, holder, token)(guard)
        await hesitate(postgres)
        const { rowCount } = await client.query(`${update} AND ${guard.text}`, [String(token), lease, ...guard.values])
        guard.assertHeld(rowCount)
      },
      [UNGUARDED]: async (client, stint) => {
        await lookFirst(substrate, stint)
        await hesitate(postgres)
        await client.query(update, [String(stint.token), stint.lease])
      },
    }
    return {
      substrate,
      async write(way, stint) {
        const client = await pool.connect()
        try {
          await client.query('BEGIN')
          await ways[way]?.(client, stint)
          await hesitate(postgres)
          await client.query('COMMIT')
        } catch (error) {
          await client.query('ROLLBACK')
          throw error
        } finally {
          client.release()
        }
      },
    }
  },
  openLedger({ url }) {
    const pool = new Pool({ connectionString: url, max: 1 })
    pool.on('error', () => {}) // the database is dropped before the last connection is closed
    return {
      // Everyone writes down what happened in the transaction in which it happened: the server knows when that committed.
      async open(leases) {
        await pool.query(`
          CREATE TABLE IF NOT EXISTS account (lease text PRIMARY KEY, token bigint NOT NULL);
          CREATE TABLE IF NOT EXISTS granted (lease text, token bigint);
          CREATE TABLE IF NOT EXISTS written (lease text, token bigint, previous bigint);
          CREATE OR REPLACE FUNCTION note_grant() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO public.granted VALUES (NEW.name, NEW.token); RETURN NULL; END';
          CREATE OR REPLACE TRIGGER note_first AFTER INSERT ON lease FOR EACH ROW EXECUTE FUNCTION note_grant();
          CREATE OR REPLACE TRIGGER note_next AFTER UPDATE ON lease FOR EACH ROW
            WHEN (OLD.token <> NEW.token) EXECUTE FUNCTION note_grant();
          CREATE OR REPLACE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO written VALUES (NEW.lease, NEW.token, OLD.token); RETURN NULL; END';
          CREATE OR REPLACE TRIGGER note_write AFTER UPDATE ON account FOR EACH ROW EXECUTE FUNCTION note_write();`)
        await pool.query('INSERT INTO account SELECT unnest($1::text[]), 0', [leases])
      },
      async read(leases) {
        const { rows: settings } = await pool.query('SHOW track_commit_timestamp')
        const isTracked = settings[0].track_commit_timestamp === 'on'
        const at = isTracked ? 'pg_xact_commit_timestamp(xmin)' : 'NULL'
        // Of two that committed in the same microsecond, the one that is right either way comes first.
        const { rows } = await pool.query<{ what: StoreEvent['what']; lease: string; token: string; over: string }>(
          `SELECT 'write' AS what, lease, token, previous AS over, ${at} AS at FROM written WHERE lease = ANY($1)
           UNION ALL SELECT 'grant', lease, token, 0, ${at} FROM granted WHERE ${isTracked} AND lease = ANY($1)
           ORDER BY at, what DESC, token`,
          [leases],
        )
        return rows.map(({ what, lease, token, over }) => ({ what, lease, token: BigInt(token), over: BigInt(over) }))
      },
      [Symbol.asyncDispose]: () => pool.end(),
    }
  },
}

// ── Redis ───────────────────────────────────────────────────────────────────────────────────────────────────────

const redis: Kind = {
  guarded: ['run()', 'transaction()', 'a connection as key'],
  leases: 12,
  grants: 400,
  pauseMs: 12,
  openTeller({ url, namespace }) {
    const substrate = new RedisSubstrate({ redis: new Redis(url), namespace })
    const connection = new Redis(url, { retryStrategy: null })
    /** In one step, so that the order of the log is the order of the writes. */
    const script = `redis.call('SET', KEYS[1], ARGV[1]) return redis.call('RPUSH', KEYS[2], 'write ' .. ARGV[1])`
    const armed = async ({ lease, holder, token }: Stint): Promise<RedisGuard> => {
      const guard = new RedisGuard()
      await substrate.trapdoor(lease, holder, token)(guard)
      await hesitate(redis)
      return guard
    }
    const ways: Record<string, (stint: Stint, account: string, log: string) => Promise<unknown>> = {
      'run()': async (stint, account, log) => {
        await (await armed(stint)).run(connection, script, [account, log], [String(stint.token)])
      },
      'transaction()': async (stint, account, log) => {
        await (
          await armed(stint)
        ).transaction(connection, async (multi) => {
          await sleep(Math.random() * 3)
          multi.set(account, String(stint.token)).rpush(log, `write ${stint.token}`)
        })
      },
      'a connection as key': async ({ lease, holder, token }, account, log) => {
        for (let results: unknown = null; results === null;) {
          await substrate.trapdoor(lease, holder, token)(connection)
          await hesitate(redis)
          results = await connection.multi().set(account, String(token)).rpush(log, `write ${token}`).exec()
        }
      },
      [UNGUARDED]: async (stint, account, log) => {
        await lookFirst(substrate, stint)
        await hesitate(redis)
        await connection.eval(script, 2, account, log, String(stint.token))
      },
    }
    return {
      substrate,
      granted: ({ lease, token }) => connection.rpush(`${namespace}:${lease}:log`, `grant ${token}`),
      async write(way, stint) {
        const key = `${namespace}:${stint.lease}`
        await ways[way]?.(stint, `${key}:account`, `${key}:log`)
      },
    }
  },
  openLedger({ url, namespace }) {
    const connection = new Redis(url)
    return {
      open: async () => {},
      async read(leases) {
        const logs = leases.map(async (lease) => {
          const lines = await connection.lrange(`${namespace}:${lease}:log`, 0, -1)
          return lines.map((line): StoreEvent => {
            const [what, token = ''] = line.split(' ')
            return { what: what === 'write' ? 'write' : 'grant', lease, token: BigInt(token) }
          })
        })
        return (await Promise.all(logs)).flat()
      },
      [Symbol.asyncDispose]: async () => connection.disconnect(),
    }
  },
}

// ── etcd ────────────────────────────────────────────────────────────────────────────────────────────────────────

const etcd: Kind = {
  guarded: ['the guard’s comparison', 'the guard’s builder'],
  leases: 6,
  grants: 300,
  pauseMs: 60,
  openTeller({ url, namespace }) {
    const driver = new Etcd3({ hosts: url.split(','), ...failFast() })
    const substrate = new EtcdSubstrate({ etcd: driver, namespace })
    const armed = async ({ lease, holder, token }: Stint): Promise<EtcdGuard> => {
      const guard = new EtcdGuard()
      await substrate.trapdoor(lease, holder, token)(guard)
      await hesitate(etcd)
      return guard
    }
    const ways: Record<string, (stint: Stint) => Promise<{ readonly header: { readonly revision: string } }>> = {
      'the guard’s comparison': async (stint) => {
        const guard = await armed(stint)
        const result = await driver
          .if(...guard.comparison)
          .then(driver.put(`account/${stint.lease}`).value(String(stint.token)))
          .commit()
        guard.assertHeld(result)
        return result
      },
      'the guard’s builder': async (stint) => {
        const guard = await armed(stint)
        const result = await guard
          .if(driver)
          .then(driver.put(`account/${stint.lease}`).value(String(stint.token)))
          .commit()
        guard.assertHeld(result)
        return result
      },
      [UNGUARDED]: async (stint) => {
        await lookFirst(substrate, stint)
        await hesitate(etcd)
        return driver.put(`account/${stint.lease}`).value(String(stint.token))
      },
    }
    return { substrate, write: async (way, stint) => (await ways[way]?.(stint))?.header.revision }
  },
  openLedger: () => ({
    open: async () => {},
    // Fencing tokens are revisions, as those of the writes are: the store itself says what came before what.
    read: async (leases, reports) => {
      const events = reports.flatMap(({ what, lease = '', token = '', detail = token }) =>
        (what === 'granted' || what === 'written') && leases.includes(lease)
          ? {
              what: what === 'granted' ? ('grant' as const) : ('write' as const),
              lease,
              token: BigInt(token),
              at: BigInt(detail),
            }
          : [],
      )
      return events.toSorted((a, b) => (a.at < b.at ? -1 : 1))
    },
    [Symbol.asyncDispose]: async () => {},
  }),
}

export const kinds: Readonly<Record<StoreAddress['kind'], Kind>> = { postgres, redis, etcd }

function hesitate({ pauseMs }: Kind): Promise<void> {
  return sleep(Math.random() * pauseMs)
}
