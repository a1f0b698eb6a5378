import { expect } from 'chai'
import { whileLive } from 'lease-core/testing'
import { isMatrix, until } from 'lease-servers'
import {
  ableTo,
  ownSeat,
  type Ability,
  type Adapter,
  type Contestant,
  type Ground,
  type Place,
  type Seat,
  type Substrate,
  type Table,
} from '#src/bench.ts'
import { dynamodb } from '#src/substrates/dynamodb.ts'
import { etcd } from '#src/substrates/etcd.ts'
import { memory } from '#src/substrates/memory.ts'
import { postgres } from '#src/substrates/postgres.ts'
import { redisCluster } from '#src/substrates/redis-cluster.ts'
import { redis } from '#src/substrates/redis.ts'
import { workloads } from '#src/workloads/index.ts'
import { testServers } from './servers.ts'

const servers = testServers()

/** They send by hand what the library sends, so they break when that changes: the test command runs them on each server. */
const SENDS_AS_THE_LIBRARY = ['script', 'statement', 'transaction']

for (const substrate of [memory, redis, postgres, etcd, ...(isMatrix() ? [redisCluster, dynamodb] : [])]) {
  const isWhole = isMatrix() || substrate === memory
  const url = servers.get(substrate.name)
  if (url === undefined) continue
  describe(`bench: adapters on ${substrate.name}`, () => {
    let place: Place
    let ground: Ground

    before(async () => {
      place = await substrate.open(url())
      ground = await substrate.reach(place.url)
    })

    after(async () => {
      await ground.close()
      await place.close()
    })

    for (const adapter of substrate.adapters.filter(
      ({ name }) => !/-[24]$/.test(name) && (isWhole || SENDS_AS_THE_LIBRARY.includes(name)),
    )) {
      it(`${adapter.name} does what it says it can: ${adapter.can.join(', ')}`, async () => {
        const seat = { ...ownSeat(), count: 2 }
        const contestant = await adapter.open(ground, seat)
        try {
          await Promise.all(adapter.can.map((ability) => abilities[ability](adapter, contestant, { ground, seat })))
        } finally {
          await contestant.close()
        }
      })
    }

    for (const workload of workloads.filter(({ name }) => isWhole && (substrate.workloads?.includes(name) ?? true))) {
      it(`${workload.name} measures the library`, () => measured(workload.name, substrate, ground))
    }
  })
}

/** How long a lease lasts that must be renewed in time. */
const KEPT_MS = 300

/** What cannot try: an election waits until it is free, the other for the whole duration of the lease. */
const waitsForWhatIsTaken: readonly string[] = ['etcd3-election', 'dynamodb-lock-client']

/** Where the contestant is, for one more beside it. */
interface Where {
  readonly ground: Ground
  readonly seat: Seat
}

const abilities: Readonly<Record<Ability, (adapter: Adapter, contestant: Contestant, where: Where) => Promise<void>>> =
  {
    async one(adapter, contestant) {
      const one = ableTo(adapter, contestant, 'one')
      for (let times = 0; times < 2; times++) {
        await one.claim('one')
        if (adapter.role === 'peer' && !waitsForWhatIsTaken.includes(adapter.name)) {
          const refused = await one.claim('one').catch((error: unknown) => error)
          expect(refused, 'a second claim').to.be.instanceOf(Error)
        }
        await one.release('one')
      }
    },
    async many(adapter, contestant) {
      const many = ableTo(adapter, contestant, 'many')
      const leases = ['many-1', 'many-2', 'many-3']
      await many.claim(leases)
      await many.extend(leases)
      await many.release(leases)
      await many.claim(leases)
    },
    async keep(adapter, contestant) {
      const keep = ableTo(adapter, contestant, 'keep')
      // Renewed every third of the duration; a renewal that is later by two thirds proves nothing.
      await whileLive(KEPT_MS, async (durationMs) => {
        const before = keep.renewals()
        const kept = await keep.hold(`kept-${durationMs}`, durationMs)
        try {
          const startedMs = performance.now()
          if (adapter.role !== 'raw') {
            await until('a renewal', () => keep.renewals() > before || performance.now() - startedMs > durationMs)
            expect(keep.renewals()).to.be.above(before)
          }
          expect(kept.held).to.equal(true)
        } finally {
          await kept.release() // or a late attempt would go on renewing
        }
      })
    },
    async queue(adapter, contestant, { ground, seat }) {
      const queue = ableTo(adapter, contestant, 'queue')
      const other = await adapter.open(ground, { ...seat, index: 1 })
      try {
        const others = ableTo(adapter, other, 'queue')
        const first = await queue.hold('queued')
        let served = false
        const next = others.hold('queued').then((kept) => {
          served = true
          return kept
        })
        await until('a denial', () => others.denials() > 0)
        expect(served).to.equal(false)
        await first.release()
        await (await next).release()
      } finally {
        await other.close()
      }
    },
    async knows(adapter, contestant) {
      expect((await ableTo(adapter, contestant, 'knows')('known'))()).to.equal(true)
    },
    async asks(adapter, contestant) {
      const ask = await ableTo(adapter, contestant, 'asks')('asked')
      expect(Boolean(await ask())).to.equal(true)
    },
    async guard(adapter, contestant) {
      for (const [lane, kind] of (adapter.guards ?? []).entries()) {
        const { guarded, plain } = await ableTo(adapter, contestant, 'guard')(kind, lane)
        await guarded()
        await plain()
      }
    },
    async manager(adapter, contestant) {
      ableTo(adapter, contestant, 'manager').token('lease', 'holder')
    },
    async roundTrip(adapter, contestant) {
      await ableTo(adapter, contestant, 'roundTrip')()
    },
  }

/** What may be missing, or zero. */
const mayBeZero = [
  'CPU µs/renewal',
  'loop delay p99 ms',
  'lost',
  'commands/s waiting',
  'commands/s for each who waits',
  'messages/pair',
]

/** A difference between two measurements, or of what only counts where there is a server. */
const mayBeAnything = [
  'bytes/lease',
  'their CPU µs/pair',
  'messages/pair to them',
  'messages/hand-off',
  'bytes/hand-off',
]

/** In this process: that every workload can be measured there, not what comes out. The arms of a table run side by side. */
async function measured(name: string, substrate: Substrate, ground: Ground): Promise<void> {
  const workload = workloads.find((one) => one.name === name)
  const ours = substrate.adapters.filter((adapter) => adapter.name === 'ours')
  const tablesFor = (durationMs: number): readonly Table[] =>
    workload?.tables({ adapters: ours, callers: [8], sizes: [20], durationMs, waiters: [2], others: [2] }) ?? []
  for (const [index, { title, arms, metrics }] of tablesFor(KEPT_MS).entries()) {
    await Promise.all(
      arms.map(async ({ label }, arm) => {
        let durationMs = KEPT_MS
        // Leases that are lost because this process stalled prove nothing: the next ones last twice as long.
        const sample = await until(`${title}, ${label}: no lease lost`, async () => {
          const task = tablesFor(durationMs)[index]?.arms[arm]?.task
          const trial = await workload?.start(ours[0] as Adapter, ground, task)
          try {
            const sample = await trial?.measure(0.02)
            return (sample?.['lost'] ?? 0) === 0 ? sample : undefined
          } finally {
            await trial?.close()
            durationMs *= 2
          }
        })
        for (const metric of metrics) {
          const what = `${title}, ${label}: ${metric.name}`
          // A heap that is measured over a few leases may come out smaller than before.
          if (mayBeAnything.includes(metric.name)) expect(sample[metric.name], what).to.be.a('number')
          else if (mayBeZero.includes(metric.name)) expect(sample[metric.name], what).to.be.at.least(0)
          else expect(sample[metric.name], what).to.be.greaterThan(0)
        }
      }),
    )
  }
}
