import { expect } from 'chai'
import { ErrNotValid, Manager, memoryClient } from 'lease-core'
import { OncePer, type OncePerOptions, type RunOptions, type Slot } from 'lease-recipes'
import { DateTime } from 'luxon'

/** The problems of what is not valid, as `argument: rule`. */
async function problemsOf(call: () => unknown): Promise<string[]> {
  try {
    await call()
  } catch (error) {
    if (!(error instanceof ErrNotValid)) throw error
    return error.problems.map(({ argument, rule }) => `${argument}: ${rule}`)
  }
  throw new Error('it was valid')
}

describe('the arguments of OncePer', () => {
  const manager = new Manager({ client: memoryClient() })
  const once = new OncePer({ manager })
  after(() => manager.stop())

  it('its options name each problem, all at once', async () => {
    const bad = { manager: {}, prefix: 'a b', atMost: 5, renew: 0, atLeast: -1, retry: 1, wait: true }
    expect(await problemsOf(() => new OncePer(bad as unknown as OncePerOptions))).to.deep.equal([
      'wait: is not an option',
      'manager: must be a Manager',
      'prefix: must not contain white space or control characters',
      'renew: must be true or false',
      'atMost: must be at least 8 ms, to be renewed in time',
      'atLeast: must be greater than zero',
      'retry: must be true or false',
    ])
    const brief = { manager, atMost: 5 }
    expect(await problemsOf(() => new OncePer(brief))).to.deep.equal([
      'atMost: must be at least 8 ms, to be renewed in time',
    ])
    expect(new OncePer({ ...brief, renew: false })).to.be.instanceOf(OncePer)
    for (const options of [undefined, null, 'x'] as unknown as OncePerOptions[]) {
      expect(await problemsOf(() => new OncePer(options))).to.deep.equal(['options: must be an object'])
    }
  })

  it('the options of a call are checked before there is a call', async () => {
    const bad = { atMost: 5, renew: 0, atLeast: -1, retry: 1, wait: true } as unknown as RunOptions
    expect(await problemsOf(() => OncePer.checkOptions(bad))).to.deep.equal([
      'wait: is not an option',
      'renew: must be true or false',
      'atMost: must be at least 8 ms, to be renewed in time',
      'atLeast: must be greater than zero',
      'retry: must be true or false',
    ])
    expect(OncePer.checkOptions({ atMost: 5, renew: false })).to.equal(undefined)
  })

  it('a call names each problem, all at once, and sends nothing', async () => {
    const options = { atMost: 'x', atLeast: 0, retry: 'yes', signal: 5, wait: 1 } as unknown as { retry: boolean }
    const work = 7 as unknown as () => void
    expect(await problemsOf(() => once.run('', 'x\ud800', work, options))).to.deep.equal([
      'wait: is not an option',
      'name: must not be empty',
      'slot: must be well-formed Unicode',
      'work: must be a function',
      'atMost: must be a luxon Duration, an object such as { seconds: 30 }, or milliseconds',
      'atLeast: must be greater than zero',
      'retry: must be true or false',
      'signal: must be an AbortSignal',
    ])
    const name = 5 as unknown as string
    expect(await problemsOf(() => once.begin(name, 'a'))).to.deep.equal(['name: must be a string'])
    for (const call of ['last', 'forget'] as const) {
      const bad = { signal: 1, retry: true } as unknown as { signal: AbortSignal }
      expect(await problemsOf(() => once[call](name, bad))).to.deep.equal([
        'retry: is not an option',
        'name: must be a string',
        'signal: must be an AbortSignal',
      ])
    }
    expect(await problemsOf(() => once.begin('x'.repeat(300), 'a'))).to.have.length(1)
    expect((await manager.leases()).size).to.equal(0)
  })

  it('a slot is a valid date of the years 0 to 9999, or a string of at most 255 bytes', async () => {
    const bad: unknown[] = [
      undefined,
      null,
      0,
      1n,
      {},
      [],
      '',
      'x'.repeat(256),
      new Date(Number.NaN),
      new Date(8.64e15),
      new Date('-000001-01-01'),
      DateTime.invalid('none'),
    ]
    for (const slot of bad) expect(await problemsOf(() => once.begin('job', slot as Slot))).to.have.length(1)
    const good = [
      new Date('0000-01-01T00:00:00Z'),
      new Date('9999-12-31T23:59:59.999Z'),
      DateTime.now(),
      'x'.repeat(255),
    ]
    for (const [n, slot] of good.entries()) {
      const begun = await once.begin(`job-${n}`, slot)
      expect(begun.ran).to.equal(true)
      if (begun.ran) await begun.run.release()
    }
  })
})
