import { Writable } from 'node:stream'
import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { pino } from 'pino'
import { logLeases } from './logging.ts'

describe('example: logs with pino', () => {
  it('have the level of the event, and its fields', async () => {
    const clock = new TestClock()
    const client = memoryClient({ store: new MemoryStore({ clock }), clock, namespace: 'billing' })
    const manager = new Manager({ client, clock })
    const lines: string[] = []
    const sink = new Writable({
      write: (line, _, done) => {
        lines.push(String(line))
        done()
      },
    })
    const stop = logLeases(manager, pino({ level: 'debug', base: null, timestamp: false }, sink))
    await manager.hold('db', 'a', { duration: 30_000 })
    await manager.claim('db', 'b', 30_000).catch(() => {})
    await clock.advance(5_000)
    await manager.revoke('db')
    await clock.settle()
    stop()
    await manager.claim('x', 'a', 30_000)
    await clock.settle()
    const place = { system: 'memory', namespace: 'billing', lease: 'db' }
    expect(lines.map((line) => JSON.parse(line) as unknown)).to.deep.equal([
      { level: 30, ...place, holder: 'a', fencingToken: 1, renewed: false, tookMs: 0, msg: 'lease claimed' },
      { level: 20, ...place, holder: 'b', currentHolder: 'a', tookMs: 0, msg: 'lease denied' },
      { level: 50, ...place, holder: 'a', fencingToken: 1, reason: 'revoked', heldMs: 5_000, msg: 'lease lost' },
      { level: 30, ...place, holder: 'a', msg: 'lease revoked' },
    ])
    await manager.stop()
    await client.close()
  })
})
