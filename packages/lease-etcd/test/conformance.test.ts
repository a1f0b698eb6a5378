import { SubstrateClient } from 'lease-core/adapter'
import { conformance, faultsOf, type Guard, type Harness } from 'lease-core/conformance'
import { FaultySubstrate } from 'lease-core/testing'
import { etcdClient, EtcdGuard, EtcdSubstrate } from 'lease-etcd'
import { enoughOf, startEtcd, type Etcd } from 'lease-servers'
import { after, before, describe, it } from 'mocha'
import { describeWithout, sleep, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

/** What tries core more than the adapter, and what `waiting.test.ts` tries as well: Redis and PostgreSQL have it in the test command. */
const OF_THE_MATRIX: readonly string[] = [
  ...['limits', 'bad input', 'thousands at once', 'exclusion', 'manager'],
  ...['queue', 'notification'],
]

for (const nodes of enoughOf([1, 3] as const)) declare(nodes)

function declare(nodes: 1 | 3): void {
  const name = nodes === 1 ? 'etcd, one node' : 'etcd, three nodes'
  describe(`lease-etcd on ${name}`, () => {
    // A server of its own, where there is a choice: the kit restarts it.
    const given = process.env['ETCD_ENDPOINTS']?.split(',')
    let server: Etcd | undefined
    let setting: Setting
    before(async () => {
      if (given === undefined) server = await startEtcd({ nodes })
      setting = openSetting({ endpoints: server?.endpoints ?? given ?? [] })
    })
    after(async () => {
      await setting[Symbol.asyncDispose]()
      await server?.stop()
    })

    const unitMs = 250
    // A server that is slow, or has just started, has not lost the request.
    const requestTimeout = 30_000
    const harness: Harness = {
      name,
      supports: { notifications: true, queues: true, addressed: true, shares: true, serverClock: false },
      unitMs,
      sleep,
      open: async (namespace) => etcdClient({ etcd: setting.newEtcd(), namespace, requestTimeout }),
      openFaulty: async (namespace, requestTimeoutMs) => {
        const substrate = new FaultySubstrate(new EtcdSubstrate({ etcd: setting.newEtcd(), namespace }))
        return {
          client: new SubstrateClient({ substrate, requestTimeout: requestTimeoutMs }),
          faults: faultsOf(substrate),
        }
      },
      guard: guard(() => setting),
      ...(given === undefined ? { restart: async () => server?.restart() } : {}),
    }
    conformance({ describe: describeWithout(OF_THE_MATRIX, 'etcd'), it, before, after }, harness)
  })
}

/** Transactions gated by the guard's comparison and by its builder, in turn. */
function guard(setting: () => Setting): Guard {
  const prefix = `${unique('written')}/`
  let turn = 0
  return {
    async write(trapdoor, text) {
      const { etcd } = setting()
      const guard = new EtcdGuard()
      await trapdoor(guard)
      const transaction = turn++ % 2 === 0 ? etcd.if(...guard.comparison) : guard.if(etcd)
      const key = `${prefix}${String(turn).padStart(6, '0')}`
      guard.assertHeld(await transaction.then(etcd.put(key).value(text)).commit())
    },
    async written() {
      return Object.values(await setting().etcd.getAll().prefix(prefix).strings())
    },
  }
}
