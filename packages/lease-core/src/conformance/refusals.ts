import assert from 'node:assert/strict'
import type { Client } from '../client.ts'
import type { Suite } from './kit.ts'
import { ALICE, BOB, CAROL, invalid, known, rejects, same } from './kit.ts'

/** A refusal brings the state that forbade it, and what a client knows is there to be read without I/O. */
export const refusals: Suite = {
  title: 'refusals and what is known',
  state(clause) {
    clause('after a refused claim the client knows who holds the lease', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'v' })
      const stranger = await context.open()
      await invalid(stranger.claimLease(lease, { holder: BOB, duration: longMs }), "a claim of another's lease")
      shows(stranger, lease, a)
    })

    clause('after a refused extension the client knows who holds the lease', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'v' })
      const stranger = await context.open()
      await invalid(stranger.extendLease(lease, { holder: BOB, duration: longMs }), "an extension of another's lease")
      shows(stranger, lease, a)
    })

    clause('after a refused release the client knows who holds the lease', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'v' })
      const stranger = await context.open()
      await invalid(stranger.releaseLease(lease, BOB), "a release of another's lease")
      shows(stranger, lease, a)
    })

    clause('after a refused expiry the client knows who holds the lease', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'v' })
      const stranger = await context.open()
      await invalid(stranger.expireLease(lease), 'an expiry of a live lease')
      shows(stranger, lease, a)
    })

    clause('a stale holder learns from the refusal who displaced it', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await b.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      assert.equal(known(a, lease).holder, ALICE, 'nobody has notified it yet')
      await invalid(a.extendLease(lease, { holder: ALICE, duration: longMs }), 'an extension by a stale holder')
      shows(a, lease, b)
      await b.releaseLease(lease, BOB)
      await b.claimLease(lease, { holder: CAROL, duration: longMs })
      await invalid(a.releaseLease(lease, ALICE), 'a release by a stale holder')
      shows(a, lease, b)
    })

    clause('a refusal because the lease is vacant leaves no holding behind', async ({ a, b, lease, longMs }) => {
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await b.releaseLease(lease, ALICE)
      await invalid(a.extendLease(lease, { holder: ALICE, duration: longMs }), 'an extension of a vacant lease')
      assert.equal(a.leases().get(lease), undefined, 'the client still shows the old holding')
    })

    clause('a refused claim of a pinned lease shows the pin', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.pinLease(lease, 'operator')
      const stranger = await context.open()
      await invalid(stranger.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim')
      same(known(stranger, lease).pinned, true, 'whether it shows as pinned')
      await a.unpinLease(lease, 'operator')
    })

    clause('of many refused at once each learns its own lease', async (context) => {
      const { a, longMs } = context
      const names = context.leases(30)
      await Promise.all(names.map((lease) => a.claimLease(lease, { holder: `of-${lease}`, duration: longMs })))
      const stranger = await context.open()
      await Promise.all(
        names.map(async (lease) => {
          await invalid(stranger.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim')
          shows(stranger, lease, a)
        }),
      )
    })

    clause('leases() is a live view of entries that do not change', async ({ a, lease, longMs }) => {
      const view = a.leases()
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old' })
      const entry = view.get(lease)
      assert(entry !== undefined, 'the view taken before the claim does not show it')
      const { fencingToken } = entry
      const expiryMs = entry.expiry.toMillis()
      await a.extendLease(lease, { holder: ALICE, duration: longMs * 3, value: 'new' })
      assert.equal(entry.value, 'old', 'an entry changed')
      assert.equal(entry.expiry.toMillis(), expiryMs, "an entry's expiry changed")
      same(entry.fencingToken, fencingToken, 'the fencing token')
      assert.equal(view.get(lease)?.value, 'new', 'the view shows the old entry')
      assert((view.get(lease)?.expiry.toMillis() ?? 0) > expiryMs + longMs, 'the view shows the old expiry')
      await a.releaseLease(lease, ALICE)
      assert.equal(view.has(lease), false, 'the view still shows the released lease')
      same(entry.holder, ALICE, 'the holder')
    })

    clause('refresh of some leases learns and forgets as they are', async (context) => {
      const { a, longMs } = context
      const [held, vacated, changed, vacant] = context.leases(4) as [string, string, string, string]
      const stranger = await context.open()
      for (const lease of [held, vacated, changed]) await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await stranger.refresh([held, vacated, changed, vacant])
      await a.releaseLease(vacated, ALICE)
      await a.releaseLease(changed, ALICE)
      await a.claimLease(changed, { holder: BOB, duration: longMs })
      await stranger.refresh(new Set([held, vacated, changed, vacant, held]))
      shows(stranger, held, a)
      shows(stranger, changed, a)
      same(stranger.leases().get(vacated), undefined, 'the holding known')
      same(stranger.leases().get(vacant), undefined, 'the holding known')
      await stranger.refresh([])
    })

    clause('refresh without names re-reads the whole namespace', async (context) => {
      const { a, longMs } = context
      const names = context.leases(5)
      const stranger = await context.open()
      for (const lease of names) await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await stranger.refresh()
      for (const lease of names) shows(stranger, lease, a)
      const [first] = names as [string]
      await a.releaseLease(first, ALICE)
      await stranger.refresh()
      same(stranger.leases().get(first), undefined, 'the holding known')
      assert.equal([...stranger.leases().keys()].filter((lease) => names.includes(lease)).length, 4)
    })

    clause('an aborted signal rejects with its own reason, and a call not sent yet never is', async (context) => {
      const { a, lease, longMs } = context
      const reason = new Error('enough')
      const signal = AbortSignal.abort(reason)
      const request = { holder: ALICE, duration: longMs }
      await assert.rejects(a.claimLease(lease, request, { signal }), (error) => error === reason)
      assert.equal(await context.holding(a), undefined, 'it was claimed all the same')
      await a.claimLease(lease, request)
      await assert.rejects(a.extendLease(lease, request, { signal }), (error) => error === reason)
      await assert.rejects(a.releaseLease(lease, ALICE, { signal }), (error) => error === reason)
      await assert.rejects(a.expireLease(lease, { signal }), (error) => error === reason)
      same((await context.holding(a))?.holder, ALICE, 'the holder')
    })

    clause('close is idempotent, and a call after it is answered', async (context) => {
      const client = await context.open()
      const { lease, longMs } = context
      await client.claimLease(lease, { holder: ALICE, duration: longMs })
      await client.close()
      await client.close()
      await context.settle(
        rejects('LEASE_UNKNOWN', client.extendLease(lease, { holder: ALICE, duration: longMs }), 'after close'),
      )
      assert.equal((await context.holding(context.a))?.holder, ALICE, 'closing a client must not release its leases')
    })
  },
}

/** Without a read, `client` shows of the lease what `holder`'s own client knows. */
function shows(client: Client, lease: string, truth: Client): void {
  const [shown, expected] = [known(client, lease), known(truth, lease)]
  same(shown.holder, expected.holder, 'the holder')
  same(shown.fencingToken, expected.fencingToken, 'the fencing token')
  same(shown.value, expected.value, 'the value')
  const apartMs = Math.abs(shown.expiry.toMillis() - expected.expiry.toMillis())
  assert(apartMs < 60_000, `the expiry shown is ${apartMs} ms off`)
}
