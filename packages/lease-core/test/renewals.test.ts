import { expect } from 'chai'
import { Renewals, type Renewable } from '#src/renewals.ts'

const now = { monotonicMs: 0, wallMs: 0, atMostMs: 0, atLeastMs: 0 }

function many(count: number, begun: number[], useless: (index: number) => boolean = () => false): Renewable[] {
  return Array.from({ length: count }, (_, index) => ({
    renewNow() {
      if (useless(index)) return false
      begun.push(index)
      return true
    },
  }))
}

describe('Renewals: so many at once, first come, first served', () => {
  it('begins at once while few are under way, and the next as others are done, in order', async () => {
    const begun: number[] = []
    const renewals = new Renewals(() => now)
    for (const one of many(3_000, begun)) renewals.due(one, now)
    const window = begun.length
    expect(window).to.be.within(512, 2_000)
    for (let index = 0; index < 100; index++) renewals.done()
    expect(begun.length, 'together, once all of one answer are done').to.equal(window)
    await Promise.resolve()
    expect(begun.length).to.equal(window + 100)
    while (begun.length < 3_000) {
      renewals.done()
      await Promise.resolve()
    }
    expect(begun).to.deep.equal(Array.from({ length: 3_000 }, (_, index) => index))
  })

  it('those whose turn is of no use to them take no place', async () => {
    const begun: number[] = []
    const renewals = new Renewals(() => now)
    for (const one of many(5_000, begun, (index) => index >= 1_000 && index < 4_000)) renewals.due(one, now)
    for (let index = 0; index < 1_000; index++) renewals.done()
    await Promise.resolve()
    expect(begun.length).to.equal(2_000)
    expect(begun.at(-1)).to.equal(4_999)
  })
})
