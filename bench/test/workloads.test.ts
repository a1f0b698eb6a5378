import { expect } from 'chai'
import type { Adapter, Contestant, Ground, Kept, Sample, Setting, Workload } from '#src/bench.ts'
import { memory } from '#src/substrates/memory.ts'
import { w3Renewals } from '#src/workloads/w3-renewals.ts'
import { w4HandOff } from '#src/workloads/w4-hand-off.ts'

describe('bench: what workloads measure', function () {
  this.timeout(30_000)
  let ground: Ground

  before(async () => {
    ground = await memory.reach('')
  })

  it('renewals are counted as often as the leases are due, and travel together', async () => {
    const sample = await sampleOf(w3Renewals, 'ours', { sizes: [50], durationMs: 900 })
    // Due every 300 ms, less the grain by which renewals travel together.
    expect(sample['renewals/s']).to.be.within(1, (50 / 0.3) * 1.5)
    expect(sample['commands/renewal']).to.be.within(1e-6, 0.99)
    expect(sample['timers']).to.be.at.least(1)
    expect(sample['lost']).to.equal(0)
  })

  it('a hand-off is one release, a claim of him who queues again, and at most one of each who waits', async () => {
    const sample = await sampleOf(w4HandOff, 'ours', { waiters: [3] })
    expect(sample['commands/s waiting']).to.equal(0)
    expect(sample['commands/hand-off']).to.be.within(1.9, 1 + 3 + 1.5)
    expect(sample['p99 ms']).to.be.at.least(sample['p50 ms'] ?? Number.NaN)
    expect(sample['waited p99 ÷ p50']).to.be.at.least(1)
  })

  it('he who is served last of all is not forgotten in how long each waits', async () => {
    // The last who came is the first served: three of five wait for as long as it is measured, at least twelve hand-offs.
    const adapters = [scripted((waiting) => waiting.length - 1)]
    const sample = await sampleOf(w4HandOff, 'scripted', { waiters: [4], adapters })
    expect(sample['waited p99 ÷ p50']).to.be.above(6)
  })

  it('somebody who cannot wait ends the measurement with his reason', async () => {
    const failing: Adapter = {
      ...scripted(() => 0),
      open: async () => contestantOf(() => Promise.reject(new Error('no way'))),
    }
    const error = await sampleOf(w4HandOff, 'scripted', { waiters: [1], adapters: [failing] }).catch(
      (error: unknown) => error,
    )
    expect(String(error)).to.contain('no way')
  })

  async function sampleOf<Task>(workload: Workload<Task>, label: string, setting: Partial<Setting>): Promise<Sample> {
    const defaults = { adapters: memory.adapters, callers: [1], sizes: undefined, durationMs: 300, waiters: [1] }
    const { adapters, ...others } = { ...defaults, ...setting }
    const arm = workload.tables({ adapters, ...others })[0]?.arms.find((one) => one.label === label)
    const adapter = adapters.find(({ name }) => name === arm?.adapter)
    if (arm === undefined || adapter === undefined) throw new Error(`no arm ${label}`)
    const trial = await workload.start(adapter, ground, arm.task)
    try {
      return await trial.measure(0.2)
    } finally {
      await trial.close()
    }
  }
})

/** A lease that goes to the one whom `next` picks among those who wait, by their order. */
function scripted(next: (waiting: readonly unknown[]) => number): Adapter {
  const open = async (): Promise<Contestant> => {
    const waiting: (() => void)[] = []
    let held = false
    let denials = 0
    const grant = (resolve: (kept: Kept) => void): void => {
      held = true
      resolve({
        held: true,
        async release() {
          held = false
          waiting.splice(next(waiting), 1)[0]?.()
        },
      })
    }
    const hold = (): Promise<Kept> =>
      new Promise((resolve) => {
        if (!held) return grant(resolve)
        denials++
        waiting.push(() => grant(resolve))
      })
    return contestantOf(hold, () => denials)
  }
  return { name: 'scripted', role: 'library', about: '', can: ['queue'], open }
}

/** All who are after the lease have this same `hold`. */
function contestantOf(hold: () => Promise<Kept>, denials: () => number = () => 0): Contestant {
  const another = async (): Promise<Contestant> => contestant()
  const contestant = (): Contestant => ({ queue: { hold, denials, another }, close: async () => {} })
  return contestant()
}
