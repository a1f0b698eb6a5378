/** Promises of the Manager that have no better place; the others are in the files of the methods they belong to. */
import { expect } from 'chai'
import { ErrInvalid } from '#src/errors.ts'
import { track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

describe('Small print', () => {
  it('`claimLease` by the holder of a live lease → ErrInvalid; the Manager then extends', async () => {
    const bench = new Bench()
    const { client } = bench.other()
    await bench.manager.claim('db', 'a', 30_000)
    await rejection(client.claimLease('db', { holder: 'a', duration: 30_000 }), ErrInvalid)
    const third = bench.other()
    await third.manager.claim('db', 'a', 60_000)
    expect(third.wire.ops.map(({ kind }) => kind)).to.deep.equal(['claim', 'extend'])
    expect(bench.fencingToken()).to.equal(1n)
  })

  it('an extension without `value` keeps the old one; with one it changes it', async () => {
    const { manager } = new Bench()
    await manager.claim('db', 'a', 30_000, { value: 'one' })
    await manager.claim('db', 'a', 30_000)
    expect((await manager.token('db', 'a').check()).value).to.equal('one')
    await manager.claim('db', 'a', 30_000, { value: 'two' })
    expect((await manager.token('db', 'a').check()).value).to.equal('two')
    await manager.claim('db', 'a', 30_000, { value: '' })
    expect((await manager.token('db', 'a').check()).value).to.equal('')
  })

  it('a check does not queue behind another operation on the lease', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'a', 30_000)
    bench.wire.hang({ kind: ['release', 'claim', 'extend', 'pin'] })
    const stuck = track(bench.manager.pin('db', 'e'))
    const check = track(bench.manager.token('db', 'a').check())
    await bench.clock.settle()
    expect([stuck.state, check.state]).to.deep.equal(['pending', 'fulfilled'])
    await bench.manager.stop()
  })

  it('a listener that throws harms nobody: events and hints reach the others', async () => {
    const bench = new Bench()
    const heard: string[] = []
    const warnings: string[] = []
    const onWarning = ({ message }: Error): void => void warnings.push(message)
    process.on('warning', onWarning)
    bench.manager.events.subscribe(() => {
      throw new Error('a bad listener')
    })
    bench.manager.events.subscribe(({ type }) => heard.push(type))
    bench.client.subscribe(() => {
      throw new Error('another bad listener')
    })
    await bench.manager.claim('db', 'a', 30_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    await bench.manager.release('db', 'a')
    await bench.clock.settle()
    process.off('warning', onWarning)
    expect(heard).to.deep.equal(['claimed', 'released'])
    expect(waiting.state).to.equal('fulfilled')
    expect(warnings).to.include.members(['a bad listener', 'another bad listener'])
  })

  it('the events of one lease come in the order in which things happened', async () => {
    const bench = new Bench()
    const other = bench.other()
    const heard: string[] = []
    bench.manager.events.subscribe((event) => heard.push('lease' in event ? event.type : 'warning'))
    await bench.manager.claim('db', 'a', 30_000)
    await bench.manager.claim('db', 'a', 30_000)
    await bench.manager.claim('db', 'b', 30_000).catch(() => {})
    await bench.manager.revoke('db')
    await bench.manager.hold('db', 'c', { duration: 30_000 })
    await other.manager.revoke('db')
    await bench.clock.advance(10_000)
    expect(heard).to.deep.equal(['claimed', 'claimed', 'denied', 'revoked', 'claimed', 'lost'])
  })
})
