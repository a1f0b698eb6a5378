import { expect } from 'chai'
import type { Arm, Place, Sample, Substrate, Workload } from '#src/bench.ts'
import { compare, type Comparisons, type Side } from '#src/compare.ts'
import type { Failure } from '#src/run.ts'

describe('bench: the comparison with another checkout', () => {
  it('both sides take turns, the order alternates, and what was measured while warming up is dropped', async () => {
    const { log, result } = await compareScripted({ here: [9, 1, 2, 3, 4], there: [9, 2, 2, 2, 2] }, { pairs: 4 })
    const { compared, failures } = await result
    expect(log).to.deep.equal([
      ...['open here', 'open there at server', 'start here', 'start there at server/there'],
      ...['here', 'there'], // warm-up
      ...['here', 'there', 'there', 'here', 'here', 'there', 'there', 'here'],
      ...['close here', 'close there', 'closed there', 'closed here'],
    ])
    expect(failures).to.deep.equal([])
    expect(compared.map(({ label, speed }) => [label, speed.ratios])).to.deep.equal([['ours', [0.5, 1, 1.5, 2]]])
    expect(compared[0]?.pairs.map(({ first }) => first)).to.deep.equal(['here', 'there', 'here', 'there'])
  })

  it('a side that fails is named, and everything is closed', async () => {
    const { log, failed, result } = await compareScripted({ here: [9, 1], there: [9] }, { pairs: 1 })
    const { compared, failures } = await result
    expect(compared).to.deep.equal([])
    const failure = { label: 'ours', reason: 'there: out of script' }
    expect(failures).to.deep.equal([{ substrate: 'memory', workload: 'W1', ...failure }])
    expect(failed).to.deep.equal([failure])
    expect(log.slice(-4)).to.deep.equal(['close here', 'close there', 'closed there', 'closed here'])
  })

  it('an abort during a measurement ends it, and everything is closed', async () => {
    const interruption = new AbortController()
    const { log, result } = await compareScripted(
      { here: [9, 1], there: [9, 'never ends'] },
      { pairs: 1, signal: interruption.signal, reached: () => interruption.abort(new Error('interrupted')) },
    )
    const error = await result.catch((error: unknown) => error)
    expect(String(error)).to.equal('Error: interrupted')
    expect(log.slice(-4)).to.deep.equal(['close here', 'close there', 'closed there', 'closed here'])
  })
})

/** Rates of each side, the first while warming up. */
type Script = Readonly<Record<Side, readonly (number | 'never ends')[]>>

interface Scripted {
  readonly log: string[]
  readonly failed: Failure[]
  readonly result: Promise<Comparisons>
}

interface How {
  readonly pairs: number
  readonly signal?: AbortSignal
  /** Called in the measurement that never ends. */
  readonly reached?: () => void
}

async function compareScripted(
  script: Script,
  { pairs, signal = new AbortController().signal, reached = () => {} }: How,
): Promise<Scripted> {
  const [log, failed]: [string[], Failure[]] = [[], []]
  const left = { here: [...script.here], there: [...script.there] }
  const place = (side: Side, url: string): Place => ({
    about: side,
    url,
    close: async () => void log.push(`closed ${side}`),
  })
  const substrateOf = (side: Side): Substrate => ({
    name: 'memory',
    adapters: [],
    async open(url) {
      log.push(url === undefined ? `open ${side}` : `open ${side} at ${url}`)
      return place(side, url === undefined ? 'server' : `${url}/${side}`)
    },
    reach: () => Promise.reject(new Error('not here')),
  })
  const arms = ['ours', 'peer'].map((label): Arm => ({
    label,
    adapter: label,
    role: label === 'ours' ? 'library' : 'peer',
    about: '',
    task: null,
  }))
  const workload: Workload = {
    name: 'W1',
    about: '',
    tables: () => [{ title: '', metrics: [{ name: 'rate', better: 'more' }], references: [], arms }],
    start: () => Promise.reject(new Error('not here')),
  }
  const result = compare({
    substrates: [substrateOf('here')],
    workloads: [workload],
    options: {
      ...{ only: undefined, callers: [1], sizes: undefined, durationMs: 1, waiters: [1], others: [1] },
      details: true,
      ...{ pairs, seconds: 0.01, warmUpSeconds: 0.01 },
    },
    other: { substrateNamed: async () => substrateOf('there') },
    progress: { begin() {}, measured() {}, failed: (failure) => void failed.push(failure), end() {} },
    async launch({ url }, side) {
      log.push(side === 'here' ? 'start here' : `start there at ${url}`)
      return {
        async measure(): Promise<Sample> {
          const rate = left[side].shift()
          if (rate === undefined) throw new Error('out of script')
          log.push(side)
          if (rate !== 'never ends') return { rate }
          setImmediate(reached)
          return new Promise(() => {})
        },
        close: async () => void log.push(`close ${side}`),
      }
    },
    finished: () => {},
    signal,
  })
  return { log, failed, result }
}
