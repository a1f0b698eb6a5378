import { expect } from 'chai'
import { until } from 'lease-servers'
import type { Adapter, Contestant, Ground, Kept, Sample, Setting, Workload } from '#src/bench.ts'
import { memory } from '#src/substrates/memory.ts'
import { w3Renewals } from '#src/workloads/w3-renewals.ts'
import { w4HandOff } from '#src/workloads/w4-hand-off.ts'

describe('bench: what workloads measure', () => {
  let ground: Ground

  before(async () => {
    ground = await memory.reach('')
  })

  it('renewals are counted as often as the leases are due, and travel together', async () => {
    let durationMs = 900
    // Leases that lapse because this process stalled prove nothing: the next ones last twice as long.
    const sample = await until('a measurement without a long stall', async () => {
      const { sample, stalledMs } = await withStalls(() => sampleOf(w3Renewals, 'ours', { sizes: [50], durationMs }))
      if (stalledMs < durationMs / 2) return sample
      durationMs *= 2
      return undefined
    })
    // Due three times within the duration, less the grain by which renewals travel together; late ones do not pile up.
    expect(sample['renewals/s']).to.be.within(50 / (durationMs / 1000), (50 / (durationMs / 3_000)) * 1.5)
    expect(sample['commands/renewal']).to.be.within(1e-6, 0.99)
    expect(sample['timers']).to.be.at.least(1)
    expect(sample['lost']).to.equal(0)
  })

  it('a hand-off is one release, a claim of the one that queues again, and at most one of each who waits', async () => {
    // Who waits asks once more when a stall made it doubt: so one measurement must show it, not each.
    const sample = await until('a hand-off that takes no more commands than that', async () => {
      const sample = await sampleOf(w4HandOff, 'ours', { waiters: [3] })
      const { 'commands/hand-off': commands = Number.NaN, 'commands/s waiting': waiting } = sample
      return commands <= 1 + 3 + 1.5 && waiting === 0 ? sample : undefined
    })
    expect(sample['commands/hand-off']).to.be.at.least(1.9)
    expect(sample['p99 ms']).to.be.at.least(sample['p50 ms'] ?? Number.NaN)
    expect(sample['waited p99 ÷ p50']).to.be.at.least(1)
  })

  it('the last to be served is counted in how long each waits', async () => {
    // The last who came is the first served: three of five wait for as long as it is measured, at least twelve hand-offs.
    // The others wait for one hand-off each: at least four of those take as long as the median, however uneven they are.
    const adapters = [scripted((waiting) => waiting.length - 1)]
    const sample = await sampleOf(w4HandOff, 'scripted', { waiters: [4], adapters })
    expect(sample['waited p99 ÷ p50']).to.be.above(4)
  })

  it('somebody who cannot wait ends the measurement with its reason', async () => {
    const failing: Adapter = {
      ...scripted(() => 0),
      open: async () =>
        contestantOf(
          () => Promise.reject(new Error('no way')),
          () => 0,
        ),
    }
    const error = await sampleOf(w4HandOff, 'scripted', { waiters: [1], adapters: [failing] }).catch(
      (error: unknown) => error,
    )
    expect(String(error)).to.contain('no way')
  })

  async function sampleOf<Task>(workload: Workload<Task>, label: string, setting: Partial<Setting>): Promise<Sample> {
    const defaults = {
      adapters: memory.adapters,
      callers: [1],
      sizes: undefined,
      durationMs: 300,
      waiters: [1],
      others: [1],
    }
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

/** Does the work. `stalledMs` is how late the latest timer of this process fired during the work. */
async function withStalls(
  work: () => Promise<Sample>,
): Promise<{ readonly sample: Sample; readonly stalledMs: number }> {
  let stalledMs = 0
  let seenMs = performance.now()
  const look = (): void => {
    const nowMs = performance.now()
    stalledMs = Math.max(stalledMs, nowMs - seenMs - LOOK_MS)
    seenMs = nowMs
  }
  const timer = setInterval(look, LOOK_MS)
  try {
    const sample = await work()
    look()
    return { sample, stalledMs }
  } finally {
    clearInterval(timer)
  }
}

/** How often that timer fires. */
const LOOK_MS = 5

/** A lease that goes to the one whom `next` picks among those who wait, by their order. */
function scripted(next: (waiting: readonly unknown[]) => number): Adapter {
  const waiting: (() => void)[] = []
  let held = false
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
  const open = async (): Promise<Contestant> => {
    let denials = 0
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

function contestantOf(hold: () => Promise<Kept>, denials: () => number): Contestant {
  return { queue: { hold, denials }, close: async () => {} }
}
