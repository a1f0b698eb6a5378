import { expect } from 'chai'
import { Manager } from 'lease-core'
import {
  type Ground,
  type GroundName,
  GROUNDS,
  type Nemesis,
  nowMs,
  openClient,
  openGround,
  Workers,
} from 'lease-chaos'
import { isMatrix, until } from 'lease-servers'
import { type Scene, signOf } from './signs.ts'
import { Listener, Writer } from './witnesses.ts'

/** What the test command strikes: of the ground that starts soonest, one nemesis of each sort that costs little. */
const CHEAP: Partial<Record<GroundName, readonly string[]>> = {
  redis: ['stop-short', 'kill-worker', 'block-loop', 'wall-workers', 'stall', 'redis-config', 'server-kill'],
}

/** Without a ground nobody knows what it has: the names, for titles. */
const COMMON = ['none', 'stop-short', 'stop-long', 'kill-worker', 'block-loop', 'storm', 'weather'] as const
const CLOCKS = ['wall-workers', 'drift-within', 'drift-beyond'] as const
const CONNECTIONS = [
  ...['cut-before', 'cut-after', 'cut-connections', 'flap', 'refuse', 'half-open', 'partition'],
  ...['one-way-up', 'one-way-down', 'stall', 'delay', 'trickle'],
] as const
const SERVER = ['server-pause', 'server-kill', 'server-restart'] as const
const SERVER_CLOCK = ['wall-server-back', 'wall-server-forward', 'slow-fsync', 'slow-fsync-kill'] as const
const REDIS = [
  ...['redis-pause', 'redis-debug-sleep', 'redis-client-kill', 'redis-script-flush', 'redis-save'],
  ...['redis-maxmemory', 'redis-config', 'redis-flushall'],
] as const
const POSTGRES = [
  ...['pg-terminate', 'pg-role-timeouts', 'pg-max-connections', 'pg-row-locks', 'pg-table-lock'],
  ...['pg-maintenance', 'pg-collect', 'pg-async-kill'],
] as const
const SENTINEL = [
  ...['server-pause', 'sentinel-failover', 'sentinel-kill-master', 'sentinel-pause', 'sentinel-restart'],
  ...['replica-pause', 'replication-cut'],
] as const
const CLUSTER = ['cluster-pause', 'cluster-kill', 'cluster-restart', 'cluster-migrate'] as const
const ETCD = ['etcd-maintenance', 'etcd-nospace', 'etcd-lease-revoke'] as const
const ETCD_MEMBERS = [
  ...['etcd-leader-kill', 'etcd-member-pause', 'etcd-majority-loss', 'etcd-move-leader', 'etcd-peer-partition'],
] as const
const DYNAMODB = [
  ...['dynamodb-throttle', 'dynamodb-conflict', 'dynamodb-error', 'dynamodb-repeat', 'dynamodb-stale-reads'],
  ...['dynamodb-many', 'dynamodb-edit', 'dynamodb-delete'],
] as const

const EXPECTED: Readonly<Record<GroundName, readonly string[]>> = {
  postgres: [...COMMON, ...CLOCKS, ...SERVER, ...CONNECTIONS, 'listener-cut', ...POSTGRES, ...SERVER_CLOCK],
  pgbouncer: [...COMMON, ...CLOCKS, ...SERVER, ...CONNECTIONS, 'listener-cut', 'bouncer'],
  standby: [
    ...COMMON,
    ...CLOCKS,
    ...SERVER,
    'standby-pause',
    'standby-kill',
    ...CONNECTIONS,
    'listener-cut',
    ...POSTGRES,
  ],
  redis: [
    ...COMMON,
    ...CLOCKS,
    ...SERVER,
    ...CONNECTIONS,
    'listener-cut',
    ...REDIS,
    ...SERVER_CLOCK,
    'redis-everysec-kill',
  ],
  sentinel: [...COMMON, ...CLOCKS, ...SENTINEL, ...REDIS],
  'redis-cluster': [...COMMON, ...CLOCKS, ...CLUSTER, ...REDIS],
  etcd: [...COMMON, ...CLOCKS, ...SERVER, ...CONNECTIONS, ...ETCD, 'etcd-restore'],
  etcd3: [...COMMON, ...CLOCKS, ...SERVER, ...CONNECTIONS, ...ETCD, ...ETCD_MEMBERS],
  dynamodb: [...COMMON, ...CLOCKS, ...SERVER, ...CONNECTIONS, ...DYNAMODB],
}

for (const name of GROUNDS) {
  const chosen = isMatrix() ? EXPECTED[name] : (CHEAP[name] ?? [])
  if (chosen.length === 0) continue

  describe(`the nemeses on ${name}`, () => {
    let ground: Ground
    let workers: Workers

    before(async () => {
      ground = await openGround(name, { namespace: 'chaos' })
      workers = new Workers('./nemeses.worker.ts', import.meta.url, { ...ground.judge, leaseMs: 0 })
      await Promise.all([start(), start()])
      // A lease that is held, and one that somebody has left.
      const opened = openClient(ground.judge)
      await using manager = new Manager({ client: opened.client })
      await manager.claim('held', 'test', 3_600_000)
      await manager.claim('vacated', 'test', 3_600_000)
      await manager.release('vacated', 'test')
      await opened.close()
    })

    after(async () => {
      await workers?.kill()
      await ground?.[Symbol.asyncDispose]()
    })

    async function start(): Promise<Workers['all'][number]> {
      const { env } = await ground.reach(workers.nextName)
      const worker = workers.start({ ...(env !== undefined && { env }) })
      await until('a worker runs', () => worker.latest('clocks') !== undefined)
      return worker
    }

    it('are those of the table, or left out with a reason', () => {
      const known = [...ground.nemeses.map((one) => one.name), ...ground.leftOut.map((one) => one.name)]
      expect(known.toSorted()).to.deep.equal([...EXPECTED[name]].toSorted())
      for (const { why } of ground.leftOut) expect(why).to.include('compiler')
    })

    for (const each of chosen) {
      it(`${each} does what it says, ends when the run does, and leaves all sound`, async function () {
        const nemesis = ground.nemeses.find((one) => one.name === each)
        if (nemesis === undefined) this.skip()
        else await strikeAndLook(nemesis)
      })
    }

    async function strikeAndLook(nemesis: Nemesis): Promise<void> {
      const reach = await ground.reach(`witness of ${nemesis.name}`)
      await using writer = new Writer(reach)
      await using listener = nemesis.name === 'listener-cut' ? new Listener(reach, ground.judge) : undefined
      await writer.isServed()
      await listener?.isServed()
      const notes: string[] = []
      const scene: Scene = { ground, reach, writer, listener, workers: workers.all, notes }
      await strikeUntilSeen(nemesis, scene)
      await writer.isServed()
      await listener?.isServed()
      await allWorkersRun()
      expect(notes.length, 'what was done is in the history').to.be.greaterThan(0)
    }

    /** Strikes again when a strike has ended before it was seen: some hit by chance. */
    async function strikeUntilSeen(nemesis: Nemesis, scene: Scene): Promise<void> {
      const isSeen = await signOf(nemesis.name)(scene)
      scene.writer.isHurt = false
      for (let seen = false; !seen;) {
        const abort = new AbortController()
        let isOver = false
        const strike = nemesis
          .strike({
            ground,
            workers: workers.running,
            startWorker: start,
            random: Math.random,
            note: (what, detail = '') => void (scene.notes as string[]).push(`${what} ${detail}`),
            signal: abort.signal,
          })
          .finally(() => (isOver = true))
        strike.catch(() => undefined) // thrown below
        await until(`${nemesis.name} is seen or over`, async () => {
          seen = await isShown(isSeen)
          return seen || isOver
        })
        abort.abort()
        await strike
        if (!seen) seen = await isShown(isSeen)
      }
    }

    /** A sign that could not be looked at, because of the fault, has not been seen. */
    async function isShown(isSeen: () => boolean | Promise<boolean>): Promise<boolean> {
      try {
        return await isSeen()
      } catch {
        return false
      }
    }

    async function allWorkersRun(): Promise<void> {
      const atMs = nowMs()
      await workers.until('all workers run', () =>
        workers.running.every((worker) => (worker.latest('clocks')?.atMs ?? 0) > atMs),
      )
      expect(workers.running).to.have.length(2)
    }
  })
}
