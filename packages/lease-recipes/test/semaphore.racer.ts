/** One process of the race: takes permits again and again, and says on which it relied, and when. */
import { writeSync } from 'node:fs'
import { ErrClaimDenied, ErrUnknown, Manager, type Client } from 'lease-core'
import { Semaphores } from '#src/semaphore.ts'

const [kind = '', url = '', namespace = '', name = ''] = process.argv.slice(2)

/** Each process loads one driver, for to load is most of what a start costs. */
const clients: Record<string, () => Promise<Client>> = {
  redis: async () => {
    const [{ redisClient }, { Redis }] = await Promise.all([import('lease-redis'), import('ioredis')])
    return redisClient({ redis: new Redis(url), namespace })
  },
  postgres: async () => {
    const [{ postgresClient }, { Pool }] = await Promise.all([import('lease-postgres'), import('pg')])
    return postgresClient({ pool: new Pool({ connectionString: url, max: 3 }), namespace })
  },
  etcd: async () => {
    const [{ etcdClient, failFast }, { Etcd3 }] = await Promise.all([import('lease-etcd'), import('etcd3')])
    return etcdClient({ etcd: new Etcd3({ hosts: url.split(','), ...failFast() }), namespace })
  },
}

const client = await clients[kind]?.()
if (client === undefined) throw new Error(`no store of the kind "${kind}"`)
const semaphores = new Semaphores({ manager: new Manager({ client }) })

/** The monotonic clock of the machine: all processes read the same. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

async function race(runner: string): Promise<never> {
  for (let round = 0; ; round++) {
    try {
      const keepAlive = Math.random() < 0.2
      const timeout = 500 + Math.random() * 1000
      const permit = await semaphores.post('race', `${runner}-${round}`, timeout, { keepAlive })
      const forgotten = Math.random() < 0.03
      const fromMs = nowMs()
      if (!permit.held) continue
      const { lease, fencingToken } = permit
      let toMs = fromMs
      const workMs = forgotten ? Number.POSITIVE_INFINITY : Math.random() * 10
      for (let atMs = nowMs(); permit.held && atMs - fromMs < workMs; atMs = nowMs()) {
        toMs = atMs // it was held after that
        if (forgotten && keepAlive) break
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
      writeSync(1, `${JSON.stringify({ lease, token: String(fencingToken), fromMs, toMs })}\n`)
      await permit.close()
    } catch (error) {
      if (!(error instanceof ErrClaimDenied || error instanceof ErrUnknown)) throw error
    }
  }
}

await Promise.all([0, 1].map((runner) => race(`${name}-${runner}`)))
