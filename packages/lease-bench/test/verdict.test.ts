import { expect } from 'chai'
import { judge, verdictLine, type Pair } from '#src/verdict.ts'

const rate = { name: 'pairs/s', better: 'more' } as const

/** Each side measures this; `here` is divided by the ratio of the pair. */
function pairsOf(speeds: readonly number[], { cpu = 1, commands = 1 } = {}): readonly Pair[] {
  return speeds.map((speed) => ({
    here: { 'pairs/s': 100 * speed, 'CPU µs/pair': 10 * cpu, 'commands/pair': 2 * commands },
    there: { 'pairs/s': 100, 'CPU µs/pair': 10, 'commands/pair': 2 },
  }))
}

/** Eleven ratios around a median. */
const around = (median: number, step: number): number[] =>
  Array.from({ length: 11 }, (_, index) => median + (index - 5) * step)

describe('bench: the verdict on another checkout', () => {
  const cases: readonly (readonly [what: string, pairs: readonly Pair[], line: string])[] = [
    ['the same on both sides', pairsOf(around(1, 0.005)), 'no worse'],
    ['a median of 0.96', pairsOf(around(0.96, 0.005)), 'no worse'],
    ['a median of 0.94', pairsOf(around(0.94, 0.005)), 'worse'],
    ['a noisy time that is slower for certain', pairsOf(around(0.5, 0.05)), 'worse'],
    ['a noisy time that is faster for certain', pairsOf(around(2, 0.1)), 'no worse'],
    ['a noisy time', pairsOf(around(1, 0.1), { cpu: 1.02 }), 'undecided: too noisy; CPU 1.02, commands 1.00'],
    [
      'a noisy time with more CPU',
      pairsOf(around(1, 0.1), { cpu: 1.2 }),
      'worse: time is too noisy; CPU 1.20, commands 1.00',
    ],
    [
      'a noisy time with more commands',
      pairsOf(around(1, 0.1), { commands: 1.5 }),
      'worse: time is too noisy; CPU 1.00, commands 1.50',
    ],
    [
      'ten pairs',
      pairsOf(around(0.5, 0).slice(1), { cpu: 1.5 }),
      'undecided: fewer than 11 pairs; CPU 1.50, commands 1.00',
    ],
  ]
  for (const [what, pairs, line] of cases) {
    it(`is "${line}" for ${what}`, () => {
      expect(verdictLine(judge(pairs, rate))).to.equal(line)
    })
  }

  it('takes what takes longer for slower', () => {
    const pairs = pairsOf(around(1, 0)).map(({ here, there }) => ({
      here: { ...here, 'p50 ms': 3 },
      there: { ...there, 'p50 ms': 2 },
    }))
    const { speed, verdict } = judge(pairs, { name: 'p50 ms', better: 'less' })
    expect(speed.median).to.be.closeTo(2 / 3, 1e-9)
    expect(verdict).to.equal('worse')
  })

  it('is by time alone where one side reports neither CPU nor commands', () => {
    const pairs = pairsOf(around(1, 0.1)).map(({ here }) => ({ here, there: { 'pairs/s': 100 } }))
    const { cpu, commands, ...judged } = judge(pairs, rate)
    expect([cpu, commands]).to.deep.equal([undefined, undefined])
    expect(verdictLine(judged)).to.equal('undecided: too noisy; CPU unknown, commands unknown')
    expect(() => judge(pairs, { name: 'leases', better: 'more' })).to.throw(RangeError, '"leases" was not measured')
  })
})
