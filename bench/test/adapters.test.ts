import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'chai'
import {
  ableTo,
  type Ability,
  type Adapter,
  type Contestant,
  type Ground,
  type Place,
  type Substrate,
} from '#src/bench.ts'
import { etcd } from '#src/substrates/etcd.ts'
import { memory } from '#src/substrates/memory.ts'
import { postgres } from '#src/substrates/postgres.ts'
import { redis } from '#src/substrates/redis.ts'
import { workloads } from '#src/workloads/index.ts'
import { testServers } from './servers.ts'

const servers = testServers()

for (const substrate of [memory, postgres, redis, etcd]) {
  describe(`bench: adapters on ${substrate.name}`, function () {
    this.timeout(60_000)
    let place: Place
    let ground: Ground

    before(async () => {
      place = await substrate.open(servers[substrate.name]())
      ground = await substrate.reach(place.url)
    })

    after(async () => {
      await ground.close()
      await place.close()
    })

    for (const adapter of substrate.adapters.filter(({ name }) => !/-[24]$/.test(name))) {
      it(`${adapter.name} does what it says it can: ${adapter.can.join(', ')}`, async () => {
        const contestant = await adapter.open(ground)
        try {
          for (const ability of adapter.can) await abilities[ability](adapter, contestant)
        } finally {
          await contestant.close()
        }
      })
    }

    for (const workload of workloads) {
      it(`${workload.name} measures the library`, () => measured(workload.name, substrate, ground))
    }
  })
}

const abilities: Readonly<Record<Ability, (adapter: Adapter, contestant: Contestant) => Promise<void>>> = {
  async one(adapter, contestant) {
    const one = ableTo(adapter, contestant, 'one')
    for (let times = 0; times < 2; times++) {
      await one.claim('one')
      // An election that is not free waits.
      if (adapter.role === 'peer' && adapter.name !== 'etcd3-election') {
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
    const kept = await keep.hold('kept', 600)
    for (let waits = 0; keep.renewals() === 0 && adapter.role !== 'raw'; waits++) {
      expect(waits, 'waits for a renewal').to.be.below(500)
      await pause(20)
    }
    expect(kept.held).to.equal(true)
    await kept.release()
  },
  async queue(adapter, contestant) {
    const queue = ableTo(adapter, contestant, 'queue')
    const other = await queue.another()
    try {
      const others = ableTo(adapter, other, 'queue')
      const first = await queue.hold('queued')
      let served = false
      const next = others.hold('queued').then((kept) => {
        served = true
        return kept
      })
      for (let waits = 0; others.denials() === 0; waits++) {
        expect(waits, 'waits for a denial').to.be.below(500)
        await pause(10)
      }
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
const mayBeZero = ['CPU µs/renewal', 'loop delay p99 ms', 'lost', 'commands/s waiting', 'commands/s for each who waits']

/** In this process: that every workload can be measured there, not what comes out. */
async function measured(name: string, substrate: Substrate, ground: Ground): Promise<void> {
  const workload = workloads.find((one) => one.name === name)
  const ours = substrate.adapters.filter((adapter) => adapter.name === 'ours')
  const setting = { adapters: ours, callers: [8], sizes: [20], durationMs: 600, waiters: [2] }
  for (const { title, arms, metrics } of workload?.tables(setting) ?? []) {
    for (const { label, task } of arms) {
      const trial = await workload?.start(ours[0] as Adapter, ground, task)
      const sample = await trial?.measure(0.02)
      await trial?.close()
      for (const metric of metrics) {
        const what = `${title}, ${label}: ${metric.name}`
        // A heap that is measured over a few leases may come out smaller than before.
        if (metric.name === 'bytes/lease') expect(sample?.[metric.name], what).to.be.a('number')
        else if (mayBeZero.includes(metric.name)) expect(sample?.[metric.name], what).to.be.at.least(0)
        else expect(sample?.[metric.name], what).to.be.greaterThan(0)
      }
    }
  }
}
