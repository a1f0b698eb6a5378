import { expect } from 'chai'
import { ErrNotValid } from '#src/errors.ts'
import type { Manager } from '#src/manager.ts'
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
