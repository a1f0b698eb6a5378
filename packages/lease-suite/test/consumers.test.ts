import { expect } from 'chai'
import { isMatrix } from 'lease-servers'
import { tryPackages, type ConsumerResult } from '#src/consumers.ts'

describe('the packages, packed and installed into an empty project', () => {
  if (!isMatrix()) {
    it.skip('work in every way in which projects use them (skipped: in test:matrix, for the tools are large)', () => {})
    return
  }
  let results: readonly ConsumerResult[]
  before(async function () {
    this.timeout(900_000)
    results = await tryPackages()
  })
  it('work in every way in which projects use them', () => {
    expect(results.filter(({ wrong }) => wrong !== undefined)).to.deep.equal([])
    expect(results.length).to.be.at.least(9)
  })
})
