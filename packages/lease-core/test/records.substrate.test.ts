/** Leases on a store of records: what arrives late, twice or never, what somebody else wrote, and what is heard. */
import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { StoreFailure, type SubstrateWarning } from '#src/substrate.ts'
import { TestClock } from '#src/testing/index.ts'
import {
  ask,
  claim,
  CLIENT,
  extend,
  grant,
  MapStore,
  MapSubstrate,
  newCall,
  release,
  type Accident,
} from './records.setting.ts'

/** The store does it, and the answer is lost. */
const loseReply: Accident = async (send) => {
  await send()
  throw new Error('connection lost')
}

/** Nothing of it was done, and nothing will be. */
const refuse: Accident = async () => {
  throw new StoreFailure('throttled', { isNotDone: true })
}

/** It is given up, and arrives when it is let go. */
function holdBack(): { readonly accident: Accident; arrive(): Promise<unknown> } {
  let arrive: () => Promise<unknown> = async () => {}
  return {
    accident: async (send) => {
      arrive = send
      throw new Error('no answer in time')
    },
    arrive: () => arrive(),
  }
}

/** A copy of it is executed first: the answer is that of the second one. */
const sendTwice: Accident = async (send) => {
  await send()
  return send()
}

describe('leases on a store of records', () => {
  let clock: TestClock
  let store: MapStore
  let substrate: MapSubstrate
  /** Another process. */
  let other: MapSubstrate
  let warnings: SubstrateWarning[]
  beforeEach(() => {
    clock = new TestClock()
    store = new MapStore()
    warnings = []
    substrate = new MapSubstrate(store, clock, { onWarning: (warning) => warnings.push(warning) })
    other = new MapSubstrate(store, clock)
  })

  const holderOf = async (lease = 'l'): Promise<string | undefined> =>
    (await other.read([lease], newCall())).get(lease)?.holder

  it('give each write a version that was never there before, whichever process writes', async () => {
    for (const process of [substrate, other]) {
      for (let term = 0; term < 50; term++) {
        const op = claim('l', 'a')
        await grant(process, op)
        await ask(process, release('l', 'a', { nonce: op.nonce }))
      }
    }
    const versions = store.written.map(({ after }) => (after === 'deleted' ? undefined : after.version))
    expect(versions.length).to.be.at.least(200)
    // What finds another version than it knew writes again, and what was refused has left nothing.
    expect(new Set(versions).size).to.equal(versions.length)
  })

  it('count a write that meets its own copy as done', async () => {
    store.plan('write', sendTwice)
    const { fencingToken } = await grant(substrate, claim('l', 'a'))
    store.written.length = 0
    store.plan('write', sendTwice)
    await grant(substrate, extend('l', 'a', { fencingToken }))
    expect(store.written).to.have.length(2)
  })

  it('of what may still arrive give the record another version first, and not of what certainly was not done', async () => {
    for (const [accident, writes] of [
      [refuse, 0],
      [holdBack().accident, 1],
    ] as const) {
      const op = claim('l', 'a')
      store.plan('write', accident)
      expect((await ask(substrate, op)).outcome).to.equal('unknown')
      store.written.length = 0
      expect((await ask(substrate, release('l', 'a', { nonce: op.nonce }))).outcome).to.equal('granted')
      expect(store.written).to.have.length(writes)
    }
  })

  it('stay vacant once they were found vacant, whatever was given up before arrives then', async () => {
    const first = holdBack()
    store.plan('write', first.accident)
    const op = claim('l', 'a')
    await ask(substrate, op)
    // Each of these finds nothing to do, and still sees to it that the claim comes too late.
    for (let again = 0; again < 2; again++) {
      expect((await ask(substrate, release('l', 'a', { nonce: op.nonce }))).outcome).to.equal('granted')
    }
    await first.arrive()
    expect(await holderOf()).to.equal(undefined)
  })

  it('are found by the next claim when the answer to the first was lost', async () => {
    store.plan('write', loseReply)
    const op = claim('l', 'a')
    expect((await ask(substrate, op)).outcome).to.equal('unknown')
    const { fencingToken } = await grant(substrate, op)
    expect(store.recordOf('l')).to.deep.include({ fencingToken, nonces: [op.nonce] })
  })

  it('are refused by what there is, not by what was known before', async () => {
    const op = claim('l', 'b')
    await grant(other, op)
    expect((await ask(substrate, claim('l', 'a'))).outcome).to.equal('refused')
    await ask(other, release('l', 'b', { nonce: op.nonce }))
    const { fencingToken } = await grant(substrate, claim('l', 'a'))
    await ask(other, release('l', 'a', { fencingToken }))
    expect((await ask(substrate, extend('l', 'a', { fencingToken }))).outcome).to.equal('refused')
    expect(await holderOf()).to.equal(undefined)
  })

  it('are contended, not unknown, where another request is at the record', async () => {
    store.plan('write', async () => {
      throw new StoreFailure('a transaction is under way', { isNotDone: true, isContended: true })
    })
    expect((await ask(substrate, claim('l', 'a'))).outcome).to.equal('contended')
    store.plan('write', refuse)
    expect((await ask(substrate, claim('l', 'a'))).outcome).to.equal('unknown')
  })

  it('hide no other behind a record that somebody else wrote, which is reported once', async () => {
    await grant(other, claim('m', 'a'))
    store.records.set('l', new StoreFailure('it is no lease', { isNotDone: true }))
    for (let times = 0; times < 2; times++) {
      expect([...(await substrate.read(undefined, newCall())).keys()]).to.deep.equal(['m'])
      expect([...(await substrate.read(['l', 'm'], newCall())).keys()]).to.deep.equal(['m'])
      expect((await substrate.pinned(newCall())).size).to.equal(0)
    }
    expect(warnings).to.deep.equal([{ warning: 'l', message: 'it is no lease' }])
    const written = store.written.length
    expect((await ask(substrate, claim('l', 'b'))).outcome).to.equal('unknown')
    expect(store.written).to.have.length(written)
  })

  it('report the end of a term to a holder that began to listen when it had the term', async () => {
    const { fencingToken } = await grant(substrate, claim('l', 'a'))
    const heard: LeaseChange[] = []
    const stop = substrate.watch((change) => heard.push(change), CLIENT)
    await ask(other, release('l', 'a', { fencingToken }))
    await clock.advance(15_000)
    expect(heard.map(({ kind }) => kind)).to.deep.equal(['resync', 'vacated'])
    stop()
  })
})
