import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { launchProcess } from '#src/arm-process.ts'
import type { Adapter, Arm, Sample, Workload } from '#src/bench.ts'
import type { BenchOptions } from '#src/options.ts'
import { run, type Failure, type Job, type Launch, type TableResult } from '#src/run.ts'

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

  it('one that fails is left out and told of; the others go on, and everything is closed', async () => {
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

  it('nothing to measure is an error, and no server is started for it', async () => {
    const error = await runScripted([]).catch((error: unknown) => error)
    expect(String(error)).to.contain('nothing was measured')
  })
})

describe('bench: the process of an arm', function () {
  this.timeout(60_000)
  const job: Job = { substrate: 'memory', url: '', adapter: 'store', workload: 'W1', task: null }

  it('measures as often as it is told', async () => {
    const trial = await launchProcess(job)
    const samples = [await trial.measure(0.01), await trial.measure(0.01)]
    await trial.close()
    for (const sample of samples) expect(sample['pairs/s']).to.be.above(0)
  })

  it('what fails there is told of by the name of the library and the workload', async () => {
    const error = await launchProcess({ ...job, adapter: 'nobody' }).catch((error: unknown) => error)
    expect(String(error)).to.contain('nobody (W1 on memory): Error: there is no such adapter')
  })

  it('a process that ends is told of with its last words', async () => {
    const dying = fileURLToPath(new URL('dying-arm.ts', import.meta.url))
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
    role: label === 'b' ? 'raw' : 'library',
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
