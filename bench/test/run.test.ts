import { expect } from 'chai'
import type { Arm, Group, Sample, Setting, Workload } from '../src/bench.ts'
import type { BenchOptions } from '../src/options.ts'
import { run } from '../src/run.ts'

const options: BenchOptions = {
  substrates: ['memory'],
  workloads: ['W1'],
  seconds: 0.01,
  repetitions: 3,
  only: undefined,
  callers: [1],
  sizes: undefined,
  durationMs: 1,
  waiters: [1],
  json: undefined,
}
const place = { about: '', url: '', commands: async () => 0, roundTrip: async () => {} }
const silent = { begin: () => {}, measured: () => {}, end: () => {} }

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

  it('a group is closed when a measurement fails, and so is the place', async () => {
    const closed: string[] = []
    const failing = scripted([['a', []]], [], closed)
    const error = await runWith(failing, closed).catch((error: unknown) => error)
    expect(String(error)).to.contain('out of script')
    expect(closed).to.deep.equal(['group', 'place'])
  })

  it('nothing to measure is an error', async () => {
    const error = await runWith(scripted([], [], []), []).catch((error: unknown) => error)
    expect(String(error)).to.contain('nothing was measured')
  })
})

type Script = readonly (readonly [label: string, rates: readonly number[]])[]

async function runScripted(script: Script): Promise<{ order: string[]; results: Awaited<ReturnType<typeof run>> }> {
  const order: string[] = []
  return { order, results: await runWith(scripted(script, order, []), []) }
}

function runWith(workload: Workload, closed: string[]): ReturnType<typeof run> {
  const adapter = {
    name: 'a',
    role: 'library',
    about: '',
    open: () => Promise.reject(new Error('not opened')),
  } as const
  const close = async (): Promise<void> => void closed.push('place')
  const substrate = { name: 'memory', adapters: [adapter], open: async () => ({ ...place, close }) } as const
  return run([substrate], [workload], options, silent)
}

function scripted(script: Script, order: string[], closed: string[]): Workload {
  const arms = script.map(([label, rates]): Arm => {
    const left = [...rates]
    return {
      label,
      role: label === 'b' ? 'raw' : 'library',
      about: '',
      async measure(): Promise<Sample> {
        order.push(label)
        const rate = left.shift()
        if (rate === undefined) throw new Error('out of script')
        return { rate }
      },
    }
  })
  return {
    name: 'W1',
    about: '',
    async *groups(_setting: Setting): AsyncGenerator<Group, void, void> {
      const close = async (): Promise<void> => void closed.push('group')
      yield { title: '', metrics: [{ name: 'rate', better: 'more' }], references: ['b', 'c'], arms, close }
    },
  }
}
