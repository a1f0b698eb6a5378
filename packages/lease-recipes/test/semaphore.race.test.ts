import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { Manager, type Client } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { migrate, postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import { etcdTargets, freshDatabase, postgresTargets, redisTargets } from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import { Pool } from 'pg'
import { Semaphores } from '#src/semaphore.ts'
import { unique } from './stores.ts'

const GRANTS = 2000
const LIMIT = 3
const PROCESSES = 3
/** A process is dear to start, so no more are killed than it takes; in between, one after another is stopped. */
const KILLS = 3

interface Grant {
  readonly lease: string
  readonly token: string
  /** Relied on from then to then, by the monotonic clock of the machine. */
  readonly fromMs: number
  readonly toMs: number
}

/** A store that other processes can open, too. */
interface Opened {
  readonly url: string
  readonly client: Client
  close(): Promise<void>
}

interface Racecourse {
  readonly name: string
  readonly kind: string
  open(namespace: string): Promise<Opened>
}

const courses: readonly Racecourse[] = [
  ...redisTargets('server').map((target) => ({
    name: target.name,
    kind: 'redis',
    open: async (namespace: string): Promise<Opened> => {
      const redis = new Redis(target.url)
      return {
        url: target.url,
        client: redisClient({ redis, namespace }),
        close: async () => redis.disconnect(),
      }
    },
  })),
  ...postgresTargets()
    .slice(0, 1)
    .map((target) => ({
      name: target.name,
      kind: 'postgres',
      open: async (namespace: string): Promise<Opened> => {
        const database = await freshDatabase(target)
        const pool = new Pool({ connectionString: database.url, max: 3 })
        pool.on('error', () => {}) // the database is dropped before the last connection is closed
        await migrate(pool)
        return {
          url: database.url,
          client: postgresClient({ pool, namespace }),
          close: async () => {
            await pool.end()
            await database.drop()
          },
        }
      },
    })),
  ...etcdTargets(1).map((target) => ({
    name: target.name,
    kind: 'etcd',
    open: async (namespace: string): Promise<Opened> => {
      const etcd = new Etcd3({ hosts: [...target.endpoints], ...failFast() })
      return {
        url: target.endpoints.join(','),
        client: etcdClient({ etcd, namespace }),
        close: async () => etcd.close(),
      }
    },
  })),
]

for (const course of courses) {
  describe(`Semaphore, a race of processes, on ${course.name}`, () => {
    const racers = new Set<ChildProcess>()
    const grants: Grant[] = []
    const crashes: string[] = []
    let opened: Opened
    let namespace: string
    let births = 0

    before(async () => {
      namespace = unique('race')
      opened = await course.open(namespace)
    })
    after(async () => {
      for (const racer of racers) racer.kill('SIGKILL')
      await opened.client.close()
      await opened.close()
    })

    function start(): ChildProcess {
      const file = fileURLToPath(new URL('semaphore.racer.ts', import.meta.url))
      const options = ['--import=tsx', '--conditions=lease-source']
      const racer = spawn(process.execPath, [...options, file, course.kind, opened.url, namespace, `p${++births}`], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      racers.add(racer)
      createInterface({ input: racer.stdout }).on('line', (line) => grants.push(JSON.parse(line) as Grant))
      racer.on('exit', (code) => {
        racers.delete(racer)
        if (code !== null) crashes.push(`${course.kind} ended by itself with ${code}`)
      })
      return racer
    }

    const pass = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

    it(`DSM-5: never more than n hold a permit, in ${GRANTS} grants to processes that are stopped and killed`, async function () {
      this.timeout(400_000)
      const manager = new Manager({ client: opened.client })
      const semaphores = new Semaphores({ manager })
      await semaphores.create('race', LIMIT)
      for (let index = 0; index < PROCESSES; index++) start()
      let kills = 0
      for (let stops = 0; (grants.length < GRANTS || kills < KILLS || stops < 3) && crashes.length === 0;) {
        await pass(Math.random() * 700)
        const racer = [...racers][Math.floor(Math.random() * racers.size)] as ChildProcess
        if (kills < KILLS && grants.length >= ((kills + 0.5) * GRANTS) / KILLS) {
          kills++
          racer.kill('SIGKILL')
          start()
        } else {
          stops++
          racer.kill('SIGSTOP')
          await pass(100 + Math.random() * 2000) // longer than some permits
          racer.kill('SIGCONT')
        }
      }
      for (const racer of racers) racer.kill('SIGKILL')
      await manager.stop()
      expect(crashes).to.deep.equal([])
      expect(grants.length).to.be.at.least(GRANTS)
      expect(tooMany(grants)).to.deep.equal([])
      expect(unordered(grants)).to.deep.equal([])
    })
  })
}

/** Instants at which more than n relied on a permit. */
function tooMany(grants: readonly Grant[]): string[] {
  const edges = grants.flatMap(({ fromMs, toMs }) => [
    { atMs: fromMs, change: 1 },
    { atMs: toMs, change: -1 },
  ])
  edges.sort((a, b) => a.atMs - b.atMs || a.change - b.change)
  const wrong: string[] = []
  let active = 0
  for (const { atMs, change } of edges) {
    active += change
    if (active > LIMIT) wrong.push(`${active} at ${atMs}`)
  }
  return wrong
}

/** Grants of one slot that overlap, or whose fencing token is not higher than that of the one before. */
function unordered(grants: readonly Grant[]): string[] {
  const wrong: string[] = []
  const latest = new Map<string, Grant>()
  for (const grant of grants.toSorted((a, b) => a.fromMs - b.fromMs)) {
    const before = latest.get(grant.lease)
    latest.set(grant.lease, grant)
    if (before === undefined) continue
    if (BigInt(grant.token) <= BigInt(before.token)) wrong.push(`${grant.token} after ${before.token}`)
    if (grant.fromMs < before.toMs) wrong.push(`${grant.token} before the end of ${before.token}`)
  }
  return wrong
}
