import { expect } from 'chai'
import { ErrNotValid } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { Bench, rejection } from './manager.bench.ts'

const operations: Record<string, (manager: Manager, options: object) => Promise<unknown>> = {
  claim: (manager, options) => manager.claim('l', 'h', 30_000, options),
  release: (manager, options) => manager.release('l', 'h', options),
  revoke: (manager, options) => manager.revoke('l', options),
  pin: (manager, options) => manager.pin('l', 'e', options),
  unpin: (manager, options) => manager.unpin('l', 'e', options),
  find: (manager, options) => manager.find('l', options),
  waitUntilExpired: (manager, options) => manager.waitUntilExpired('l', options),
}

describe('options of an operation', () => {
  for (const [name, operate] of Object.entries(operations)) {
    it(`${name}: one that is unknown, or options that are no object, are ErrNotValid, and nothing is sent`, async () => {
      const bench = new Bench()
      await bench.manager.claim('l', 'h', 30_000)
      bench.wire.resetCounts()
      const unknown = await rejection(operate(bench.manager, { fencingtoken: 99n }), ErrNotValid)
      expect(unknown.message).to.include('fencingtoken')
      await rejection(operate(bench.manager, null as unknown as object), ErrNotValid)
      expect(bench.wire.counts.roundTrips).to.equal(0)
      await bench.manager.stop()
    })
  }

  it('claim: `wait` is none of its options, and the message says what waits', async () => {
    const bench = new Bench()
    const { message } = await rejection(bench.manager.claim('l', 'h', 30_000, { wait: true } as object), ErrNotValid)
    expect(message).to.include('write manager.hold(lease, holder, { duration, wait: true })')
    await bench.manager.stop()
  })

  it('hold: what is no object is answered with an example', async () => {
    const bench = new Bench()
    for (const options of [undefined, 30_000]) {
      const { message } = await rejection(bench.manager.hold('l', 'h', options as never), ErrNotValid)
      expect(message).to.include('options must be an object such as { duration: { seconds: 30 } }')
    }
    await bench.manager.stop()
  })

  it('of a Manager: nothing, a client for the options, and another object for the client, are answered with an example', () => {
    const { client } = new Bench()
    const wrong: Record<string, unknown> = { nothing: undefined, 'the client': client, 'a map': new Map() }
    for (const [name, config] of Object.entries(wrong)) {
      expect(() => new Manager(config as never), name).to.throw(
        'config must be an object such as { client: postgresClient(',
      )
    }
    expect(() => new Manager({ client: new Map() as never })).to.throw(
      ErrNotValid,
      /^client must be a Client, such as /,
    )
  })

  it('of the release of a Hold: it stays as it was', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('l', 'h', { duration: 30_000 })
    for (const options of [{ every: true }, null]) {
      await rejection(hold.release(options as object), ErrNotValid)
    }
    expect(hold.held).to.equal(true)
    await bench.manager.stop()
  })
})
