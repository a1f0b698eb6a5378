/** How each nemesis shows, to a plain driver or in what the workers see of themselves. */
import { readFileSync } from 'node:fs'
import { GetItemCommand, QueryCommand, UpdateItemCommand } from '@aws-sdk/client-dynamodb'
import { nowMs, type Ground, type Reach, type Worker } from 'lease-chaos'
import { type Address, postJson, redisCommand, type RespValue } from 'lease-servers'
import { connected, type Listener, openOnce, type Writer } from './witnesses.ts'

/** What a sign may look at. */
export interface Scene {
  readonly ground: Ground
  /** The way of a worker. */
  readonly reach: Reach
  readonly writer: Writer
  readonly listener: Listener | undefined
  readonly workers: readonly Worker[]
  readonly notes: readonly string[]
}

/** Looks once at the sound ground; returns what tells whether the fault has been seen since. */
export type Sign = (scene: Scene) => Promise<() => boolean | Promise<boolean>>

const hurt: Sign =
  async ({ writer }) =>
  () =>
    writer.isHurt
const struck: Sign =
  async ({ notes }) =>
  () =>
    notes.length > 1
const stopped: Sign =
  async ({ workers }) =>
  () =>
    workers.some(({ pid, running }) => running && /\) T /.test(readFileSync(`/proc/${pid}/stat`, 'latin1')))

/** In the row of clocks that a worker reports. */
interface Clocks {
  readonly beforeMs: number
  readonly afterMs: number
  readonly wallMs: number
}

function clocksOf(worker: Worker): (Clocks & { readonly atMs: number }) | undefined {
  const report = worker.latest('clocks')
  return report && { ...(JSON.parse(report.detail ?? '') as Clocks), atMs: report.atMs }
}

const wallMoved: Sign = async ({ workers }) => {
  const offset = Date.now() - nowMs()
  return () =>
    workers.some((worker) => {
      const clocks = clocksOf(worker)
      return clocks !== undefined && Math.abs(clocks.wallMs - clocks.atMs - offset) > 5000
    })
}

/** A worker's own clock has run by at least so many milliseconds away from the machine's, since it started. */
const drifted =
  (ms: number): Sign =>
  async ({ workers }) => {
    const shift = (worker: Worker): readonly [from: number, to: number] => {
      const { beforeMs, afterMs, atMs } = clocksOf(worker) ?? { beforeMs: 0, afterMs: 0, atMs: 0 }
      return [beforeMs - atMs, afterMs - atMs]
    }
    const first = new Map(workers.map((worker) => [worker.name, shift(worker)]))
    return () =>
      workers.some((worker) => {
        const [from0, to0] = first.get(worker.name) ?? [0, 0]
        const [from, to] = shift(worker)
        return from - to0 > ms || from0 - to > ms
      })
  }

/** Refused because somebody else has a lock. */
const locked =
  (statement: string): Sign =>
  async ({ ground }) =>
  async () =>
    (await codeOf(ground.judge.url, `BEGIN; ${statement}`)) === '55P03'

async function codeOf(url: string, text: string): Promise<string> {
  const client = await connected(url)
  try {
    await client.query(text)
    return ''
  } catch (error) {
    return String((error as { readonly code?: unknown }).code)
  } finally {
    await client.end()
  }
}

async function rowOf(url: string, text: string): Promise<unknown> {
  const client = await connected(url)
  try {
    return (await client.query(text)).rows[0]
  } finally {
    await client.end()
  }
}

/** What this statement answers has changed. */
const changed =
  (text: string, of: (scene: Scene) => string = ({ ground }) => ground.judge.url): Sign =>
  async (scene) => {
    const before = JSON.stringify(await rowOf(of(scene), text))
    return async () => JSON.stringify(await rowOf(of(scene), text)) !== before
  }

/** The servers that hold data. */
async function nodesOf({ ground }: Scene): Promise<readonly Address[]> {
  const { url, sentinels, master = '' } = ground.judge
  if (sentinels === undefined) return url.split(',').map(addressOf)
  const [sentinel = ''] = sentinels.split(',')
  const answer = await redisCommand(addressOf(sentinel), 'SENTINEL', 'GET-MASTER-ADDR-BY-NAME', master)
  const [host = '', port = ''] = answer as readonly string[]
  return [{ host, port: Number(port) }]
}

function addressOf(url: string): Address {
  const { hostname: host, port } = new URL(url)
  return { host, port: Number(port) }
}

/** What one of the servers answers differs from before. One that is cut off for lack of room for clients has changed, too. */
const answersChanged =
  (words: readonly string[], part: (answer: RespValue) => string = JSON.stringify): Sign =>
  async (scene) => {
    const ask = async (): Promise<string> => {
      const nodes = await nodesOf(scene)
      const answers = await Promise.all(
        nodes.map(async (node) => redisCommand(node, ...words).then(part, (error: unknown) => String(error))),
      )
      return answers.join()
    }
    const before = await ask()
    return async () => (await ask()) !== before
  }

const lines =
  (pattern: RegExp) =>
  (answer: RespValue): string =>
    String(answer).match(pattern)?.join() ?? ''

/** The clock of the server is off by more than the question took. */
const serverClock: Sign = async (scene) => async () => {
  const { ground } = scene
  const fromMs = Date.now()
  let serverMs: number
  if (ground.judge.kind === 'postgres') {
    const row = await rowOf(ground.judge.url, 'SELECT extract(epoch FROM clock_timestamp()) * 1000 AS ms')
    serverMs = Number((row as { readonly ms: string }).ms)
  } else {
    const [node] = await nodesOf(scene)
    const [seconds = '', micros = ''] = (await redisCommand(node as Address, 'TIME')) as readonly string[]
    serverMs = Number(seconds) * 1000 + Number(micros) / 1000
  }
  return serverMs < fromMs - 20 || serverMs > Date.now() + 20
}

const scriptGone: Sign = async (scene) => {
  const nodes = await nodesOf(scene)
  const hashes = await Promise.all(nodes.map(async (node) => redisCommand(node, 'SCRIPT', 'LOAD', 'return 1')))
  return async () => {
    const exist = await Promise.all(
      nodes.map(async (node, index) => redisCommand(node, 'SCRIPT', 'EXISTS', String(hashes[index]))),
    )
    return exist.some((one) => Array.isArray(one) && one[0] === 0)
  }
}

/** Acknowledged rows that are not there any more. */
const rowsLost: Sign = async ({ ground, reach }) => {
  const { url } = ground.judge
  await codeOf(url, 'CREATE TABLE IF NOT EXISTS acknowledged (id serial); GRANT ALL ON acknowledged TO PUBLIC')
  let highest = 0
  return async () => {
    // As a worker, whose COMMIT may not wait.
    const row = (await rowOf(reach.url, 'INSERT INTO acknowledged SELECT FROM generate_series(1, 1) RETURNING id')) as {
      readonly id: number
    }
    const all = (await rowOf(url, 'SELECT count(*)::int AS count FROM acknowledged')) as { readonly count: number }
    highest++
    return row.id > 0 && all.count < highest
  }
}

/** An acknowledged number that the server counts again. */
const countsAgain: Sign = async (scene) => {
  let highest = 0
  return async () => {
    const [node] = await nodesOf(scene)
    const count = Number(await redisCommand(node as Address, 'INCR', 'acknowledged'))
    const isAgain = count <= highest
    highest = Math.max(highest, count)
    return isAgain
  }
}

/** A revision that was acknowledged comes again. */
const revisionAgain: Sign = async ({ ground }) => {
  let highest = 0
  return async () => {
    const put = { key: 'YWNr', value: 'eA==' }
    const { header } = (await postJson(`${ground.judge.url}/v3/kv/put`, 1000, put)) as {
      readonly header?: { readonly revision?: string }
    }
    const revision = Number(header?.revision ?? Number.POSITIVE_INFINITY)
    const isAgain = revision <= highest
    if (revision < Number.POSITIVE_INFINITY) highest = Math.max(highest, revision)
    return isAgain
  }
}

const tombstonesGone: Sign = async ({ ground }) => {
  const { namespace, url } = ground.judge
  const count = `SELECT count(*)::int AS count FROM lease WHERE ns = '${namespace}' AND name = 'vacated'`
  return async () => ((await rowOf(url, count)) as { readonly count: number }).count === 0
}

/** Several sentinels are asked one by one: one of them has no answer. */
const sentinelSilent: Sign =
  async ({ ground }) =>
  async () => {
    const all = (ground.judge.sentinels ?? '').split(',').map(addressOf)
    const answers = await Promise.allSettled(all.map(async (one) => within(redisCommand(one, 'PING'))))
    return answers.some(({ status }) => status === 'rejected')
  }

async function within<T>(call: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer')), 200)
  })
  return await Promise.race([call, late]).finally(() => clearTimeout(timer))
}

const replicaBehind: Sign = async (scene) => async () => {
  const [master] = await nodesOf(scene)
  const info = String(await redisCommand(master as Address, 'INFO', 'replication'))
  const sent = Number(/master_repl_offset:(\d+)/.exec(info)?.[1])
  const taken = Number(/offset=(\d+)/.exec(info)?.[1] ?? -1)
  const lag = Number(/lag=(\d+)/.exec(info)?.[1] ?? 9)
  return taken < 0 || (lag > 1 && taken < sent)
}

const promoted: Sign = async ({ ground }) => {
  const before = ground.promotions?.().length ?? 0
  return () => (ground.promotions?.().length ?? 0) > before
}

/** A member of etcd does not answer a read that asks the majority. */
const memberSilent: Sign =
  async ({ ground }) =>
  async () => {
    const reads = ground.judge.url.split(',').map(async (one) => postJson(`${one}/v3/kv/range`, 300, { key: 'AA==' }))
    const answers = await Promise.allSettled(reads)
    return answers.some((one) => one.status === 'rejected' || 'error' in (one.value as object))
  }

const leaderMoved: Sign = async ({ ground }) => {
  const [first] = ground.judge.url.split(',')
  const leader = async (): Promise<string> => {
    const status = (await postJson(`${first}/v3/maintenance/status`, 10_000)) as { readonly leader?: string }
    return status.leader ?? ''
  }
  const before = await leader()
  return async () => (await leader().catch(() => before)) !== before
}

const compacted: Sign =
  async ({ ground }) =>
  async () => {
    const [first] = ground.judge.url.split(',')
    const answer = await postJson(`${first}/v3/kv/range`, 10_000, { key: 'AA==', revision: '1' })
    return JSON.stringify(answer).includes('compacted')
  }

const leaseRevoked: Sign = async ({ ground }) => {
  const [first] = ground.judge.url.split(',')
  const { ID } = (await postJson(`${first}/v3/lease/grant`, 10_000, { TTL: 3600 })) as { readonly ID: string }
  return async () => !JSON.stringify(await postJson(`${first}/v3/lease/leases`, 10_000)).includes(ID)
}

/** Counts by the way of a worker. */
const counter = (reach: Reach) => {
  const { client, table } = openOnce(reach)
  const Key = { ns: { S: 'probe' }, nm: { S: 'counter' } }
  const values = { ':one': { N: '1' } }
  return {
    add: () =>
      client.send(
        new UpdateItemCommand({
          TableName: table,
          Key,
          UpdateExpression: 'ADD n :one',
          ExpressionAttributeValues: values,
        }),
      ),
    read: async (isConsistent: boolean): Promise<number> => {
      const input = { TableName: table, Key, ConsistentRead: isConsistent }
      return Number((await client.send(new GetItemCommand(input))).Item?.['n']?.N ?? 0)
    },
  }
}

/** It was counted more often than anybody has asked for. */
const countedTwice: Sign = async ({ reach, ground }) => {
  const { add } = counter(reach)
  const { read } = counter(ground.judge)
  const before = await read(true)
  let asked = 0
  return async () => {
    asked++
    await add()
    return (await read(true)) > before + asked
  }
}

/** A read by the way of a worker that does not ask to be consistent does not see what was acknowledged before it. */
const staleRead: Sign = async ({ reach, ground }) => {
  const own = counter(reach)
  const { add, read } = counter(ground.judge)
  return async () => {
    await own.read(false)
    await add()
    return (await own.read(false)) < (await read(true))
  }
}

/** What the items of the namespace look like has changed. */
const itemsChanged =
  (part: (items: readonly Record<string, unknown>[]) => unknown): Sign =>
  async ({ ground }) => {
    const { client, table } = openOnce(ground.judge)
    const look = async (): Promise<string> => {
      const query = {
        TableName: table,
        KeyConditionExpression: 'ns = :ns',
        ExpressionAttributeValues: { ':ns': { S: ground.judge.namespace } },
        ConsistentRead: true,
      }
      const { Items = [], LastEvaluatedKey } = await client.send(new QueryCommand(query))
      return JSON.stringify([part(Items), LastEvaluatedKey === undefined])
    }
    const before = await look()
    return async () => (await look()) !== before
  }

/** Every other nemesis makes writes fail that go the way of a worker. */
const signs: Readonly<Record<string, Sign>> = {
  none:
    async ({ notes }) =>
    () =>
      notes.length === 2,
  'stop-short': stopped,
  'stop-long': stopped,
  'kill-worker': async ({ workers }) => {
    const victims = workers.filter(({ running }) => running)
    return () => victims.some(({ running }) => !running)
  },
  'block-loop': async ({ workers }) => {
    const orders = (): number => workers.flatMap(({ reports }) => reports).filter(({ what }) => what === 'spins').length
    const before = orders()
    return () => orders() > before
  },
  'wall-workers': wallMoved,
  'drift-within': drifted(0.3),
  'drift-beyond': drifted(10),
  storm: struck,
  weather: struck,
  'listener-cut':
    async ({ listener }) =>
    () =>
      listener?.isHurt === true,
  'wall-server-back': serverClock,
  'wall-server-forward': serverClock,
  'pg-role-timeouts':
    async ({ reach }) =>
    async () => {
      const name = ['lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout']
      const text = `SELECT FROM pg_settings WHERE name = ANY('{${name.join()}}') AND setting <> '0'`
      return (await rowOf(reach.url, text).catch(() => undefined)) !== undefined
    },
  'pg-max-connections':
    async ({ reach }) =>
    async () => {
      const code = await codeOf(reach.url, 'SELECT 1').catch((error: unknown) => (error as { code?: string }).code)
      return code === '53300'
    },
  'pg-row-locks': locked('SELECT FROM lease FOR UPDATE NOWAIT'),
  'pg-table-lock': locked('LOCK TABLE lease IN ACCESS EXCLUSIVE MODE NOWAIT'),
  'pg-maintenance': changed(`SELECT pg_relation_filenode('lease'), pg_relation_filenode('lease_pkey'),
    (pg_control_checkpoint()).redo_lsn`),
  'pg-collect': tombstonesGone,
  'pg-async-kill': rowsLost,
  'redis-everysec-kill': countsAgain,
  'redis-script-flush': scriptGone,
  'redis-save': answersChanged(['INFO'], lines(/(rdb_saves|aof_rewrites|rdb_last_save_time):\d+/g)),
  'redis-maxmemory': answersChanged(['CONFIG', 'GET', 'maxmemory']),
  'redis-config': answersChanged(['CONFIG', 'GET', '*']),
  'redis-flushall': answersChanged(['INFO', 'commandstats'], lines(/cmdstat_flushall:calls=\d+/g)),
  'sentinel-failover': promoted,
  'sentinel-kill-master': promoted,
  'sentinel-pause': sentinelSilent,
  'sentinel-restart': sentinelSilent,
  'replica-pause': replicaBehind,
  'replication-cut': replicaBehind,
  'cluster-migrate': answersChanged(['CLUSTER', 'SLOTS']),
  'etcd-maintenance': compacted,
  'etcd-lease-revoke': leaseRevoked,
  'etcd-restore': revisionAgain,
  'etcd-member-pause': memberSilent,
  'etcd-leader-kill': memberSilent,
  'etcd-majority-loss': memberSilent,
  'etcd-move-leader': leaderMoved,
  'etcd-peer-partition': memberSilent,
  'dynamodb-repeat': countedTwice,
  'dynamodb-stale-reads': staleRead,
  'dynamodb-many': itemsChanged(() => ''), // more than one page
  'dynamodb-edit': itemsChanged((items) => items.map(({ note }) => note)),
  'dynamodb-delete': itemsChanged((items) => items.length),
}

export function signOf(nemesis: string): Sign {
  return signs[nemesis] ?? hurt
}
