import { expect } from 'chai'
import { readAdapterOptions } from '#src/adapter-parts.ts'
import { ErrNotValid } from '#src/errors.ts'

describe('the options of an adapter', () => {
  const check = (options: unknown, { client = false } = {}): Record<string, unknown> => {
    try {
      const reader = readAdapterOptions(options as object, ['pool', 'clock'], { client })
      reader.object('pool', 'a pool', ['connect'])
      reader.finish()
    } catch (error) {
      expect(error).to.be.instanceOf(ErrNotValid)
      return Object.fromEntries((error as ErrNotValid).problems.map(({ argument, rule }) => [argument, rule]))
    }
    return {}
  }
  const good = { pool: { connect() {} }, namespace: 'n' }

  it('passes when nothing is wrong', () => {
    expect(check(good)).to.deep.equal({})
    expect(check({ ...good, requestTimeout: { seconds: 1 } }, { client: true })).to.deep.equal({})
  })

  it('tells every problem at once, those of core too', () => {
    const bad = { pool: {}, namespace: '', clock: {}, events: 1, requestTimeout: 0, typo: 1 }
    expect(check(bad, { client: true })).to.have.all.keys(Object.keys(bad))
  })

  it('knows the options of a client only where they belong, and no substrate', () => {
    expect(check({ ...good, events: 1, requestTimeout: 5 })).to.deep.equal({
      events: 'is not an option',
      requestTimeout: 'is not an option',
    })
    expect(check({ ...good, substrate: {} }, { client: true })).to.deep.equal({ substrate: 'is not an option' })
  })

  it('wants an object', () => {
    for (const none of [undefined, null, 'redis://', 5]) expect(check(none)).to.have.all.keys('options')
  })

  it('takes a namespace of up to 255 bytes of well-formed Unicode without NUL', () => {
    expect(check({ ...good, namespace: 'ü'.repeat(127) })).to.deep.equal({})
    for (const namespace of [undefined, 5, '', 'a\0', '\ud800', 'ü'.repeat(128)]) {
      expect(check({ ...good, namespace })).to.have.all.keys('namespace')
    }
  })
})
