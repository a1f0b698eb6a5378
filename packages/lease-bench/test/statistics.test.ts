import { expect } from 'chai'
import { figure } from '#src/report.ts'
import { medianInterval, pairedRatio, quantile, summarize } from '#src/statistics.ts'

describe('bench: statistics', () => {
  it('a summary is the median with the lowest and the highest', () => {
    expect(summarize([3, 1, 2])).to.include({ median: 2, min: 1, max: 3 })
    expect(summarize([4, 1, 2, 3]).median).to.equal(2.5)
  })

  it('a ratio is the median of the ratios of each round, not the ratio of the medians', () => {
    const { median, min, max, samples } = pairedRatio([10, 20, 90], [20, 80, 30])
    expect(samples).to.deep.equal([0.5, 0.25, 3])
    expect({ median, min, max }).to.deep.equal({ median: 0.5, min: 0.25, max: 3 }) // of the medians: 20 / 30
  })

  it('rounds that cannot be paired, and no rounds at all, are refused', () => {
    expect(() => pairedRatio([1, 2], [1])).to.throw(RangeError, '2 rounds cannot be paired with 1')
    expect(() => summarize([])).to.throw(RangeError)
  })

  it('a quantile is interpolated between the closest ranks', () => {
    expect(quantile([10, 0], 0.25)).to.equal(2.5)
    expect(quantile([7], 0.99)).to.equal(7)
  })

  it('an interval of the median goes from one order statistic to another, as the binomial distribution has it', () => {
    const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1).toReversed()
    // Known from tables of the sign test: samples, rank of the lower end, probability.
    for (const [count, rank, coverage] of [
      [6, 1, 1 - 2 / 2 ** 6],
      [9, 2, 1 - (2 * (1 + 9)) / 2 ** 9],
      [11, 2, 1 - (2 * (1 + 11)) / 2 ** 11],
      [12, 3, 1 - (2 * (1 + 12 + 66)) / 2 ** 12],
      [20, 6, 0.9586105],
    ] as const) {
      const interval = medianInterval(upTo(count))
      expect(interval, `${count} samples`).to.include({ low: rank, high: count + 1 - rank })
      expect(interval?.coverage, `${count} samples`).to.be.closeTo(coverage, 1e-6)
    }
    expect(medianInterval(upTo(5)), 'five samples').to.equal(undefined)
    expect(medianInterval(upTo(5), 0.9)).to.include({ low: 1, high: 5 })
  })

  it('figures have three digits, or all of a whole number', () => {
    expect([0.01234, 1.234, 12.34, 123.4, 12_345.6, 0].map(figure)).to.deep.equal([
      '0.012',
      '1.23',
      '12.3',
      '123',
      '12,346',
      '0',
    ])
  })
})
