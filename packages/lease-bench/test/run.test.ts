import { expect } from 'chai'
import { programOf } from 'lease-servers'
import { armMain, launchCounted, launchProcess } from '#src/arm-process.ts'
import type { Adapter, Arm, Sample, Workload } from '#src/bench.ts'
import type { BenchOptions } from '#src/options.ts'
import { cellsOf } from '#src/report.ts'
import { plannedSeconds, run, type Failure, type Job, type Launch, type TableResult } from '#src/run.ts'
import { w1Sequential } from '#src/workloads/w1-sequential.ts'

const options: BenchOptions = {
  substrates: ['memory'],
  workloads: ['W1'],
  seconds: 0.01,
  warmUpSeconds: 0.01,
  repetitions: 3,
  only: undefined,
  callers: [1],
  sizes: undefined,
  durationMs: 1,
  waiters: [1],
  others: [1],
  details: true,
  against: undefined,
  pairs: 1,
  failIfWorse: false,
  json: undefined,
  svg: undefined,
  markdown: undefined,
}

describe('bench: run', () => {
  it('the arms take turns, each round begins with another, and what was measured while warming up is dropped', async () => {
    const { order, results } = await runScripted([
      ['a', [1000, 1, 2, 3]],
      ['b', [1000, 4, 4, 4]],
    ])
    expect(order).to.deep.equal(['a', 'b', 'a', 'b', 'b', 'a', 'a', 'b'])
    expect(results[0]?.rows.map(({ measured }) => measured['rate']?.samples)).to.deep.equal([
      [1, 2, 3],
      [4, 4, 4],
    ])
  })

  it('every row is set in proportion to the references, round by round', async () => {
    const { results } = await runScripted([
      ['a', [0, 1, 2, 3]],
      ['b', [0, 2, 8, 2]],
    ])
    expect(results[0]?.references).to.deep.equal(['b'])
    expect(results[0]?.rows[0]?.ratios['b']?.samples).to.deep.equal([0.5, 0.25, 1.5])
    expect(results[0]?.rows[1]?.ratios['b']?.median).to.equal(1)
  })

  it('one that fails is left out and named; the others go on, and everything is closed', async () => {
    const { results, failures, closed } = await runScripted([
      ['a', [0, 1, 2, 3]],
      ['b', [0, 2]],
      ['none', undefined],
    ])
    const expected = [
      { label: 'none', reason: 'cannot start' },
      { label: 'b', reason: 'out of script' },
    ]
    expect(failures).to.deep.equal(expected)
    expect(results[0]?.failures).to.deep.equal(expected)
    expect(results[0]?.rows.map(({ label }) => label)).to.deep.equal(['a'])
    expect(results[0]?.references).to.deep.equal([])
    expect(closed).to.deep.equal(['b', 'a', 'place'])
  })

  it('a library of somebody else that fails cannot do it, which is no failure', async () => {
    const { results } = await runScripted([
      ['a', [0, 1, 2, 3]],
      ['peer', [0, 1]],
    ])
    expect(results[0]?.failures).to.deep.equal([])
    expect(results[0]?.unable).to.deep.equal([{ label: 'peer', reason: 'out of script' }])
    const { rows } = cellsOf(results[0] as TableResult)
    expect(rows).to.deep.equal([
      ['a', '2 [1–3]'],
      ['peer', 'cannot: out of script'],
    ])
  })

  it('how long it takes is known beforehand', () => {
    const adapter = {
      name: 'a',
      role: 'library',
      about: '',
      can: ['one'],
      open: () => Promise.reject(new Error()),
    } as const
    const substrates = [{ name: 'memory', adapters: [adapter, { ...adapter, name: 'b', isDetail: true }] }] as never
    const takes = (seconds: number): number => 2 * seconds
    const workloads = [w1Sequential, { ...w1Sequential, takes }] as readonly Workload[]
    const planned = (options: BenchOptions): number => plannedSeconds(substrates, workloads, options)
    const setting = { ...options, seconds: 10, warmUpSeconds: 5, repetitions: 3 }
    expect(planned(setting)).to.equal(2 * (1 + 35 + (1 + 70)))
    expect(planned({ ...setting, details: false })).to.equal(1 + 35 + (1 + 70))
  })

  it('nothing to measure is an error, and no server is started for it', async () => {
    const error = await runScripted([]).catch((error: unknown) => error)
    expect(String(error)).to.contain('nothing was measured')
  })
})

describe('bench: the process of an arm', () => {
  const job: Job = { substrate: 'memory', url: '', adapter: 'store', workload: 'W1', task: null }

  it('measures as often as it is notified', async () => {
    const trial = await launchProcess(job)
    const samples = [await trial.measure(0.01), await trial.measure(0.01)]
    await trial.close()
    for (const sample of samples) expect(sample['pairs/s']).to.be.above(0)
  })

  it('counts the commands of each operation, where it is to be compared', async () => {
    const trial = await launchCounted({ ...job, adapter: 'ours' }, armMain)
    const { 'commands/pair': commands } = await trial.measure(0.01)
    await trial.close()
    expect(commands).to.equal(2)
  })

  it('what fails there is notified of by the name of the library and the workload', async () => {
    const error = await launchProcess({ ...job, adapter: 'nobody' }).catch((error: unknown) => error)
    expect(String(error)).to.contain('nobody (W1 on memory): Error: there is no such adapter')
  })

  it('a process that ends is notified of with its last words', async () => {
    const dying = String(programOf('./dying-arm.ts', import.meta.url).at(-1))
    const trial = await launchProcess(job, dying)
    const error = await trial.measure(1).catch((error: unknown) => error)
    expect(String(error)).to.contain('store (W1 on memory): its process ended with code 3\nmy last words')
    await trial.close()
  })
})

/** Rates of each arm, the first while warming up; undefined: it does not start. */
type Script = readonly (readonly [label: string, rates: readonly number[] | undefined])[]

interface Scripted {
  readonly order: string[]
  readonly closed: string[]
  readonly failures: Failure[]
  readonly results: readonly TableResult[]
}

async function runScripted(script: Script): Promise<Scripted> {
  const [order, closed, failures]: [string[], string[], Failure[]] = [[], [], []]
  const left = new Map(script.map(([label, rates]) => [label, rates === undefined ? undefined : [...rates]]))
  const launch: Launch = async ({ adapter }) => {
    const rates = left.get(adapter)
    if (rates === undefined) throw new Error('cannot start')
    return {
      async measure(): Promise<Sample> {
        const rate = rates.shift()
        if (rate === undefined) throw new Error('out of script')
        order.push(adapter)
        return { rate }
      },
      close: async () => void closed.push(adapter),
    }
  }
  const arms = script.map(([label]): Arm => ({
    label,
    adapter: label,
    role: label === 'b' ? 'raw' : label === 'peer' ? 'peer' : 'library',
    about: '',
    task: null,
  }))
  const workload: Workload = {
    name: 'W1',
    about: '',
    tables: () => [{ title: '', metrics: [{ name: 'rate', better: 'more' }], references: ['b', 'c'], arms }],
    start: () => Promise.reject(new Error('not here')),
  }
  const adapter = {
    name: 'a',
    role: 'library',
    about: '',
    can: [],
    open: () => Promise.reject(new Error()),
  } satisfies Adapter
  const substrate = {
    name: 'memory',
    adapters: [adapter],
    open: async () => ({ about: '', url: '', close: async () => void closed.push('place') }),
    reach: () => Promise.reject(new Error('not here')),
  } as const
  const progress = {
    begin: () => {},
    measured: () => {},
    failed: (failure: Failure) => void failures.push(failure),
    end: () => {},
  }
  return { order, closed, failures, results: await run([substrate], [workload], options, progress, launch) }
}
