import { expect } from 'chai'
import { describe, it } from 'mocha'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import type { Call, Op } from '#src/substrate.ts'
import { FaultySubstrate, track } from '#src/testing/index.ts'

function claim(lease: string): Op {
  return { kind: 'claim', lease, holder: 'a', durationMs: 10_000, nonce: lease, value: undefined, lapsed: undefined }
}

/** A wire to a store, and another that nothing befalls. */
function newBench() {
  const store = new MemoryStore()
  const wire = new FaultySubstrate(new MemorySubstrate({ store }))
  const abort = new AbortController()
  const call: Call = {
    signal: abort.signal,
    timeoutMs: 1000,
    client: 'c',
    epoch: 0,
    sentMs: undefined,
    notAfterMs: undefined,
  }
  const stored = async (): Promise<string[]> => [
    ...(await new MemorySubstrate({ store }).read(undefined, { ...call, signal: new AbortController().signal })).keys(),
  ]
  return { wire, abort, call, stored }
}

describe('FaultySubstrate: packets on their way', () => {
  it('holdBack stops a request until it is let go, and then passes others', async () => {
    const { wire, call, stored } = newBench()
    const fault = wire.holdBack({ kind: 'claim', times: 1 })
    const answer = track(wire.apply([claim('x')], call))
    await wire.apply([claim('y')], call)
    expect(await stored()).to.deep.equal(['y'])
    expect([answer.state, fault.hanging]).to.deep.equal(['pending', 1])
    await fault.letGo()
    await answer.promise
    expect(await stored()).to.deep.equal(['y', 'x'])
    expect([answer.state, fault.hanging]).to.deep.equal(['fulfilled', 0])
  })

  it('holdBack delivers a request that was given up meanwhile', async () => {
    const { wire, abort, call, stored } = newBench()
    const fault = wire.holdBack()
    const answer = track(wire.apply([claim('x')], call))
    await Promise.resolve()
    abort.abort(new Error('given up'))
    expect(await stored()).to.deep.equal([])
    expect(answer.state).to.equal('rejected')
    await fault.letGo()
    expect(await stored()).to.deep.equal(['x'])
  })

  it('repeat executes a request at once, and a copy of it when it is let go', async () => {
    const { wire, call, stored } = newBench()
    const fault = wire.repeat({ times: 1 })
    await wire.apply([claim('x')], call)
    expect(fault.hanging).to.equal(1)
    await wire.apply([{ kind: 'release', lease: 'x', holder: 'a', fencingToken: undefined, nonce: 'x' }], call)
    await wire.apply([{ ...claim('x'), nonce: 'another' } as Op], call)
    await wire.apply([{ kind: 'release', lease: 'x', holder: 'a', fencingToken: undefined, nonce: 'another' }], call)
    await fault.letGo() // nothing says when it was sent: the store executes it
    expect(await stored()).to.deep.equal(['x'])
  })

  it('heal leaves packets on their way', async () => {
    const { wire, call, stored } = newBench()
    const fault = wire.holdBack()
    void wire.apply([claim('x')], call)
    wire.heal()
    await wire.apply([claim('y')], call)
    expect(await stored()).to.deep.equal(['y'])
    expect(fault.hanging).to.equal(1)
    await fault.letGo()
    expect(await stored()).to.deep.equal(['y', 'x'])
  })

  it('letGo delivers packets in the order in which they were sent', async () => {
    const { wire, call, stored } = newBench()
    const fault = wire.holdBack()
    const answers = Promise.all(['x', 'y', 'z'].map((lease) => wire.apply([claim(lease)], call)))
    await fault.letGo()
    await answers
    expect(await stored()).to.deep.equal(['x', 'y', 'z'])
  })
})
