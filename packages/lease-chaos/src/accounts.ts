/**
 * An account for each lease, to which its holders write their fencing tokens: on each kind of store by each kind of guard, and
 * without one. The store itself says in which order terms began and writes were done.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { EtcdGuard } from 'lease-etcd'
import { SqlGuard } from 'lease-postgres'
import { RedisGuard } from 'lease-redis'
import type { Cluster, Redis } from 'ioredis'
import type { PoolClient } from 'pg'
import type { StoreEvent } from './checker.ts'
import type { Reach } from './ground.ts'
import type { Report } from './recorder.ts'
import { dynamodbParts, openEtcd, openPool, openRedis, type StoreAddress } from './connections.ts'
import type { DynamodbLog } from './dynamodb-log.ts'

/** A term in which its holder writes. */
export interface Stint {
  readonly lease: string
  readonly token: bigint
  /** The account that it writes to, if that is not the one of its lease. */
  readonly account?: string
  /** Puts the check of this term into a transaction. Without a key: looks whether the lease is held. @throws ErrNotHeld */
  readonly check: (key?: unknown) => Promise<unknown>
}

/** One who writes to accounts, with connections of its own. */
export interface Teller extends AsyncDisposable {
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
  openTeller(reach: Reach): Teller
  openLedger(address: StoreAddress): Ledger
}

/** The control: in time when it looks, perhaps not when it writes. */
export const UNGUARDED = 'a check before the write instead'

/** How long a writer waits for each answer. */
const WRITE_MS = 5_000

// ── PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────────────

const postgres: Kind = {
  guarded: ['a connection as key', 'a SqlGuard'],
  leases: 12,
  grants: 400,
  pauseMs: 12,
  openTeller(reach) {
    const pool = openPool(reach, 1, WRITE_MS)
    const update = 'UPDATE account SET token = $1 WHERE lease = $2'
    type Write = (client: PoolClient, stint: Stint) => Promise<unknown>
    const ways: Record<string, Write> = {
      'a connection as key': async (client, { lease, account = lease, token, check }) => {
        await check(client)
        await hesitate(postgres)
        await client.query(update, [String(token), account])
      },
      'a SqlGuard': async (client, { lease, account = lease, token, check }) => {
        const guard = new SqlGuard(3)
        await check(guard)
        await hesitate(postgres)
        const values = [String(token), account, ...guard.values]
        const { rowCount } = await client.query(`${update} AND ${guard.text}`, values)
        guard.assertHeld(rowCount)
      },
      [UNGUARDED]: async (client, { lease, account = lease, token, check }) => {
        await check()
        await hesitate(postgres)
        await client.query(update, [String(token), account])
      },
    }
    return {
      async write(way, stint) {
        const client = await pool.connect()
        const ignore = (): void => {} // the query reports it
        client.on('error', ignore)
        let isSound = true
        try {
          await client.query('BEGIN')
          await ways[way]?.(client, stint)
          await hesitate(postgres)
          await client.query('COMMIT')
        } catch (error) {
          // Without an answer to this the server may be at work yet, and the connection is not used again.
          isSound = await client.query('ROLLBACK').then(
            () => true,
            () => false,
          )
          throw error
        } finally {
          client.off('error', ignore)
          client.release(!isSound)
        }
      },
      [Symbol.asyncDispose]: () => pool.end(),
    }
  },
  openLedger(address) {
    const pool = openPool(address, 1)
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
        await pool.query('INSERT INTO account SELECT unnest($1::text[]), 0 ON CONFLICT DO NOTHING', [leases])
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
  openTeller(reach) {
    const { namespace } = reach
    // Nothing is sent again behind the back of the writer: a repeated write could be refused although the first was done. (Without
    // `autoResendUnfulfilledCommands` the driver would forget commands, and never settle them.)
    const connection = openRedis(reach, { maxRetriesPerRequest: 0, commandTimeout: WRITE_MS })
    /** What is watched is forgotten with the connection, so this one is not made again. */
    let watched: Redis | Cluster | undefined
    /** In one step, so that the order of the log is the order of the writes. */
    const script = `redis.call('SET', KEYS[1], ARGV[1]) return redis.call('RPUSH', KEYS[2], 'write ' .. ARGV[1])`
    const armed = async ({ check }: Stint): Promise<RedisGuard> => {
      const guard = new RedisGuard()
      await check(guard)
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
        ).transaction(asServer(connection), async (multi) => {
          await sleep(Math.random() * 3)
          multi.set(account, String(stint.token)).rpush(log, `write ${stint.token}`)
        })
      },
      'a connection as key': async ({ token, check }, account, log) => {
        watched ??= openRedis(reach, { retryStrategy: null })
        for (let results: unknown = null; results === null;) {
          await check(watched)
          await hesitate(redis)
          results = await watched.multi().set(account, String(token)).rpush(log, `write ${token}`).exec()
        }
      },
      [UNGUARDED]: async (stint, account, log) => {
        await stint.check()
        await hesitate(redis)
        await connection.eval(script, 2, account, log, String(stint.token))
      },
    }
    return {
      granted: ({ lease, token }) => connection.rpush(keyOf(namespace, lease, 'log'), `grant ${token}`),
      async write(way, stint) {
        const { lease, account = lease } = stint
        await ways[way]?.(stint, keyOf(namespace, account, 'account'), keyOf(namespace, account, 'log'))
      },
      async [Symbol.asyncDispose]() {
        connection.disconnect()
        watched?.disconnect()
      },
    }
  },
  openLedger(address) {
    const { namespace } = address
    const connection = openRedis(address)
    return {
      open: async () => {},
      async read(leases) {
        const logs = leases.map(async (lease) => {
          const lines = await connection.lrange(keyOf(namespace, lease, 'log'), 0, -1)
          return lines.map((line) => storeEvent(lease, line))
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
  openTeller(reach) {
    const driver = openEtcd(reach)
    const keyOf = ({ lease, account = lease }: Stint): string => `account/${reach.namespace}/${account}`
    const armed = async ({ check }: Stint): Promise<EtcdGuard> => {
      const guard = new EtcdGuard()
      await check(guard)
      await hesitate(etcd)
      return guard
    }
    const ways: Record<string, (stint: Stint) => Promise<{ readonly header: { readonly revision: string } }>> = {
      'the guard’s comparison': async (stint) => {
        const guard = await armed(stint)
        const result = await driver
          .if(...guard.comparison)
          .then(driver.put(keyOf(stint)).value(String(stint.token)))
          .commit()
        guard.assertHeld(result)
        return result
      },
      'the guard’s builder': async (stint) => {
        const guard = await armed(stint)
        const result = await guard
          .if(driver)
          .then(driver.put(keyOf(stint)).value(String(stint.token)))
          .commit()
        guard.assertHeld(result)
        return result
      },
      [UNGUARDED]: async (stint) => {
        await stint.check()
        await hesitate(etcd)
        return driver.put(keyOf(stint)).value(String(stint.token))
      },
    }
    return {
      write: async (way, stint) => (await ways[way]?.(stint))?.header.revision,
      [Symbol.asyncDispose]: async () => driver.close(),
    }
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

// ── DynamoDB ────────────────────────────────────────────────────────────────────────────────────────────────────

const dynamodb: Kind = {
  guarded: ['the guard’s checks', 'the guard’s checks for documents'],
  leases: 6,
  grants: 300,
  pauseMs: 60,
  openTeller(reach) {
    const { log, client } = openLog(reach)
    const { DynamoGuard } = dynamodbParts()
    const armed = async ({ check }: Stint): Promise<InstanceType<typeof DynamoGuard>> => {
      const guard = new DynamoGuard()
      await check(guard)
      await hesitate(dynamodb)
      return guard
    }
    const ways: Record<string, (stint: Stint, account: string) => Promise<unknown>> = {
      'the guard’s checks': async (stint, account) => {
        const guard = await armed(stint)
        return log.append(account, `write ${stint.token}`, guard.checks, (items, send) => guard.transact(items, send))
      },
      'the guard’s checks for documents': async (stint, account) => {
        const guard = await armed(stint)
        const checks = guard.documentChecks
        return log.appendDocument(account, `write ${stint.token}`, checks, (items, send) => guard.transact(items, send))
      },
      [UNGUARDED]: async ({ token, check }, account) => {
        await check()
        await hesitate(dynamodb)
        return log.append(account, `write ${token}`)
      },
    }
    return {
      granted: ({ lease, token }) => log.append(lease, `grant ${token}`),
      async write(way, stint) {
        await ways[way]?.(stint, stint.account ?? stint.lease)
      },
      [Symbol.asyncDispose]: async () => client.destroy(),
    }
  },
  openLedger(address) {
    const { log, client } = openLog(address)
    return {
      open: async () => {},
      async read(leases) {
        const logs = leases.map(async (lease) => (await log.read(lease)).map((line) => storeEvent(lease, line)))
        return (await Promise.all(logs)).flat()
      },
      [Symbol.asyncDispose]: async () => client.destroy(),
    }
  },
}

export const kinds: Readonly<Record<StoreAddress['kind'], Kind>> = { postgres, redis, etcd, dynamodb }

function openLog(address: StoreAddress): { readonly log: DynamodbLog; readonly client: { destroy(): void } } {
  const { DynamodbLog, openDynamodb } = dynamodbParts()
  const { client, table } = openDynamodb(address)
  return { client, log: new DynamodbLog(client, table, address.namespace) }
}

/** A line of a log: what, and the fencing token. */
function storeEvent(lease: string, line: string): StoreEvent {
  const [what, token = ''] = line.split(' ')
  return { what: what === 'write' ? 'write' : 'grant', lease, token: BigInt(token) }
}

/** In the slot of the namespace, so that a Cluster can execute it together with the guard. */
function keyOf(namespace: string, account: string, part: 'account' | 'log'): string {
  return `${account}:${part}:{${namespace}}`
}

/** What takes a connection of its own. @throws for a Cluster, which has none */
function asServer(connection: Redis | Cluster): Redis {
  if (connection.isCluster) throw new Error('a transaction needs one server: write by run()')
  return connection as Redis
}

function hesitate({ pauseMs }: Kind): Promise<void> {
  return sleep(Math.random() * pauseMs)
}
