import assert from 'node:assert/strict'
import type { Client, LeaseChange } from '../client.ts'
import { INTEREST_MS, noTicket, PASS_OVER_MS, type Place, type Ticket } from '../ticket.ts'
import {
  ALICE,
  BOB,
  CAROL,
  codeOf,
  known,
  rejects,
  releaseAndClose,
  same,
  termOf,
  TooSlow,
  type Suite,
  type Hearer,
  type Context,
} from './kit.ts'

/** Those who wait have tickets, so that a vacancy is not everybody's at once (`ticket.ts` of lease-core). */
export const queue: Suite = {
  title: 'queue',
  state(clause) {
    clause(
      'each claim of one who waits that is refused gives a ticket behind the others, and a ticket is kept',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(context, BOB), await enter(context, CAROL)]
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}`)
        same([bob.ahead, carol.ahead], [0, 1], 'how many are ahead')
        const before = { ...carol }
        await rejects('LEASE_INVALID', claim(context, CAROL, carol), 'a second claim')
        same(carol, before, 'the ticket')
      },
      'queues',
    )

    clause(
      'the store says how many are in the queue of a lease',
      async (context) => {
        const { a, b, lease, longMs } = context
        const seen = async (client: Client): Promise<number | undefined> => client.waiting?.(lease)
        if ((await seen(a)) === undefined) return // `waiting` is optional
        same([await seen(a), await seen(b)], [0, 0], 'how many wait before anybody does')
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const bob = await enter(context, BOB)
        const carol = await enter(context, CAROL)
        same([await seen(a), await seen(b)], [2, 2], 'how many wait')
        b.leaveQueue?.(lease, bob)
        await rejects('LEASE_INVALID', claim(context, CAROL, carol), 'a claim of one who waits')
        same(await seen(a), 1, 'how many wait after one has left')
        await a.releaseLease(lease, ALICE)
        await claim(context, CAROL, carol)
        same(await seen(a), 0, 'how many wait after the other was granted the lease')
      },
      'queues',
    )

    clause(
      'a waiter alone stands before an empty queue',
      async (context) => {
        await claim(context, BOB, noTicket())
        same((await context.holding(context.a))?.holder, BOB, 'the holder')
      },
      'queues',
    )

    clause(
      'a claim without a ticket does not get past those with one, though the lease is vacant',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const bob = await enter(context, BOB)
        await a.releaseLease(lease, ALICE)
        const carol = await enter(context, CAROL)
        same(await context.holding(a), undefined, 'the holding')
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}`)
        await claim(context, BOB, bob)
        same((await context.holding(a))?.holder, BOB, 'the holder')
      },
      'queues',
    )

    clause(
      'a waiter with a ticket is granted a vacant lease, also before those ahead, which keep theirs',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(context, BOB), await enter(context, CAROL)]
        await a.releaseLease(lease, ALICE)
        await claim(context, CAROL, carol)
        const { place } = bob
        const dave = await enter(context, 'dave')
        same(dave.ahead, 0, 'how many are ahead of one who comes after a grant to the last')
        await rejects('LEASE_INVALID', claim(context, BOB, bob), "a claim of another's lease")
        same([bob.place, bob.ahead], [place, 0], 'the ticket')
        await rejects('LEASE_INVALID', claim(context, 'dave', dave), "a claim of another's lease")
        same(dave.ahead, 1, 'how many are ahead of the one who came last')
        await b.releaseLease(lease, CAROL)
        await claim(context, BOB, bob)
        same((await context.holding(a))?.holder, BOB, 'the holder')
      },
      'queues',
    )

    clause(
      'a grant takes those out of the queue who were notified before it, and leaves those in who were not',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const tickets: Ticket[] = []
        for (const holder of ['first', 'second', 'third', 'fourth', 'fifth']) tickets.push(await enter(context, holder))
        await vacate(context)
        const [first, , third, fourth, fifth] = tickets as [Ticket, Ticket, Ticket, Ticket, Ticket]
        await claim(context, 'fourth', fourth)
        same((await enter(context, 'sixth')).ahead, 2, 'how many are ahead of one who comes after the grant')
        for (const [ticket, ahead] of [
          [fifth, 1],
          [third, 0],
          [first, 0],
        ] as const) {
          await rejects('LEASE_INVALID', claim(context, 'w', ticket), 'a claim of one who waits')
          same(ticket.ahead, ahead, `how many are ahead of ticket ${ticket.place}`)
        }
        await b.releaseLease(lease, 'fourth')
        await claim(context, 'first', first)
        await b.releaseLease(lease, 'first')
        await claim(context, 'third', third)
        same((await context.holding(a))?.holder, 'third', 'the holder')
      },
      'queues',
    )

    clause(
      'the queue ends with its last ticket, and who comes then is granted a vacant lease at once',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(context, BOB), await enter(context, CAROL)]
        await a.releaseLease(lease, ALICE)
        await claim(context, BOB, bob)
        const late = await enter(context, 'dave')
        same(late.ahead, 1, 'how many are ahead of one who comes after the first was served')
        for (const [before, next, ticket] of [
          [BOB, CAROL, carol],
          [CAROL, 'dave', late],
        ] as const) {
          await b.releaseLease(lease, before)
          await claim(context, next, ticket)
        }
        await b.releaseLease(lease, 'dave')
        await claim(context, 'erin', noTicket())
        same((await context.holding(a))?.holder, 'erin', 'the holder')
      },
      'queues',
    )

    clause(
      'a waiter that leaves is ahead of nobody, and a queue that all have left keeps nobody out',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(context, BOB), await enter(context, CAROL)]
        b.leaveQueue?.(lease, bob)
        await rejects('LEASE_INVALID', claim(context, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 0, 'how many are ahead')
        b.leaveQueue?.(lease, carol)
        await a.releaseLease(lease, ALICE)
        await claim(context, 'dave', noTicket())
        same((await context.holding(a))?.holder, 'dave', 'the holder')
      },
      'queues',
    )

    clause(
      'no ticket is given twice, though the queue was empty in between',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const bob = await enter(context, BOB)
        b.leaveQueue?.(lease, bob)
        const carol = await enter(context, CAROL)
        same(carol.ahead, 0, 'how many are ahead')
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}, who left`)
        const { place } = carol
        await a.releaseLease(lease, ALICE)
        await claim(context, CAROL, carol)
        const dave = await enter(context, 'dave')
        same(dave.ahead, 0, 'how many are ahead')
        assert(dave.place > place, `place ${dave.place} was given after ${place}, who was served`)
      },
      'queues',
    )

    clause(
      'a ticket that is not renewed lapses, and one that is renewed does not',
      async (context) => {
        const { a, b, lease } = context
        const duration = 4 * INTEREST_MS
        await a.claimLease(lease, { holder: ALICE, duration })
        const [bob, carol] = [await enter(context, BOB), await enter(context, CAROL)]
        await context.pass(INTEREST_MS * 0.6)
        await rejects('LEASE_INVALID', claim(context, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 1, 'how many are ahead before the first has lapsed')
        await context.pass(INTEREST_MS * 0.6)
        const dave = noTicket()
        const asked = { holder: 'dave', duration }
        await rejects('LEASE_INVALID', b.claimLease(lease, asked, { ticket: dave, maxWaiters: 2 }), 'a claim')
        same([dave.ahead, dave.isFull], [1, false], 'how many are ahead of one who comes later')
        const before = { ...bob }
        await rejects('LEASE_INVALID', claim(context, BOB, bob), 'a claim of one who comes back')
        same(bob, before, 'the ticket of one who comes back')
        await rejects('LEASE_INVALID', claim(context, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 1, 'how many are ahead once the first is back')
      },
      'queues',
      'exactClock',
    )

    clause(
      'nobody gives up the ticket of another client',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(context, BOB), await enter(context, CAROL)]
        a.leaveQueue?.(lease, bob)
        await a.extendLease(lease, { holder: ALICE, duration: longMs }) // it comes after that
        await rejects('LEASE_INVALID', claim(context, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 1, 'how many are ahead')
      },
      'queues',
    )

    clause(
      'a queue that is full lets nobody in, and keeps those who are in it',
      async (context) => {
        const { a, b, lease, longMs } = context
        const asked = (holder: string): Parameters<Client['claimLease']>[1] => ({ holder, duration: longMs })
        await a.claimLease(lease, asked(ALICE))
        const [bob, carol, dave] = [noTicket(), noTicket(), noTicket()]
        const options = { maxWaiters: 2 }
        for (const [holder, ticket] of [
          [BOB, bob],
          [CAROL, carol],
          ['dave', dave],
        ] as const) {
          await rejects('LEASE_INVALID', b.claimLease(lease, asked(holder), { ticket, ...options }), 'a claim')
        }
        same([bob.isFull, carol.isFull, dave.isFull], [false, false, true], 'whether the queue was full')
        same(dave.place, 0, 'the ticket')
        await rejects('LEASE_INVALID', b.claimLease(lease, asked(BOB), { ticket: bob, ...options }), 'a further claim')
        same([bob.ahead, bob.isFull], [0, false], 'how many are ahead')
        same((await enter(context, 'erin')).ahead, 2, 'how many are ahead of one who does not mind')
        await a.releaseLease(lease, ALICE)
        // One who comes to a vacant lease waits behind those who are first, however many: they may be dead.
        const frank = noTicket()
        const late = b.claimLease(lease, asked('frank'), { ticket: frank, ...options })
        await rejects('LEASE_INVALID', late, 'a claim of a vacant lease for which others wait')
        same([frank.ahead, frank.isFull], [3, false], 'how many are ahead of one who comes to a vacant lease')
        await claim(context, CAROL, carol)
        same((await context.holding(a))?.holder, CAROL, 'the holder')
      },
      'queues',
    )

    clause(
      'a claim of one who does not wait knows nothing of queues',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await enter(context, BOB)
        await a.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: CAROL, duration: longMs })
        same((await context.holding(a))?.holder, CAROL, 'the holder')
      },
      'queues',
    )

    clause(
      'a lapsed lease is taken with a ticket as well, in a later term',
      async (context) => {
        const { a, b, unitMs } = context
        const { lease, durationMs, outcome } = await context.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          const { fencingToken } = known(a, lease)
          return { fencingToken, bob: await enter(context, BOB) }
        })
        await context.lapse(lease, durationMs, b)
        await claim(context, BOB, outcome.bob)
        assert(known(b, lease).fencingToken > outcome.fencingToken, 'the fencing token did not rise')
      },
      'queues',
    )

    clause(
      'those who hear of everything hear of a grant to one who waited, with ticket and duration',
      async (context) => {
        const { a, b, lease, longMs } = context
        const heard = context.listen(await context.open())
        let ticket = noTicket()
        // More than once, for a subscription needs a moment to be in force.
        await context.until('word of a grant to one who waited', async () => {
          await b.releaseLease(lease, BOB)
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          ticket = await enter(context, BOB)
          await a.releaseLease(lease, ALICE)
          const { place } = ticket
          await claim(context, BOB, ticket)
          ticket = { ...ticket, place }
          await context.pass(context.unitMs / 10)
          return heard.some((change) => isTaken(change) && change.lease === lease) || heard
        })
        const grants = heard.filter(isTaken).filter((grant) => grant.lease === lease)
        same(
          grants.every(({ durationMs }) => durationMs === longMs),
          true,
          'the duration reported',
        )
        await context.until(
          'word of the last grant',
          () => heard.some((it) => isTaken(it) && it.lease === lease && it.place === ticket.place) || heard,
        )
      },
      'queues',
      'notifications',
    )

    // ── whom to notify ───────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'the first in the queue is notified of a vacancy, and one that stands in, each with how many are ahead, and nobody else',
      async (context) => {
        const waiters = await inQueue(context, 4)
        await vacate(context)
        await isTold(context, waiters[0], 0)
        await isTold(context, waiters[1], 1)
        for (const { after } of waiters.slice(2)) same(await after(), [], 'what those behind have heard')
      },
      'queues',
      'addressed',
    )

    clause(
      'the first in the queue is notified when a lapsed lease is expired',
      async (context) => {
        const { a, b, unitMs } = context
        const hearer = await context.hearer()
        const { lease, durationMs, outcome } = await context.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          return enter(context, 'w', hearer.client)
        })
        await context.lapse(lease, durationMs, b)
        await b.expireLease(lease)
        await isTold(context, { ...hearer, ticket: outcome }, 0)
      },
      'queues',
      'addressed',
    )

    clause(
      'the first in the queue is notified when a lease lapses with its last pin',
      async (context) => {
        const { a, unitMs } = context
        const { lease, durationMs } = await context.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          await a.pinLease(lease, 'e')
        })
        const [first] = await join(context, 1)
        await context.lapse(lease, durationMs, a)
        await a.unpinLease(lease, 'e')
        await isTold(context, first, 0)
        same(await context.holding(context.b), undefined, 'the holding')
      },
      'queues',
      'addressed',
    )

    clause(
      'a claim that is refused at the moment of a release is in the queue by then, and notified',
      async (context) => {
        const { a, longMs } = context
        const { client, heard } = await context.hearer()
        for (const [round, lease] of context.leases(RACES).entries()) {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const ticket = noTicket()
          const claiming = client.claimLease(lease, { holder: BOB, duration: longMs }, { ticket })
          for (let turn = 0; turn < round % TURNS; turn++) await Promise.resolve()
          const [, outcome] = await Promise.all([a.releaseLease(lease, ALICE), outcomeOf(claiming)])
          if (outcome === 'granted') continue
          await context.until(
            'word of the release for one whose claim it has refused',
            () =>
              heard.some((it) => it.kind === 'vacated' && it.lease === lease && it.to?.place === ticket.place) || heard,
          )
        }
      },
      'queues',
      'addressed',
    )

    clause(
      'when one who waited is granted the lease the next one is notified: that it is first, and for how long the lease is taken',
      async (context) => {
        const { longMs } = context
        const [first, second, third] = await inQueue(context, 3)
        await vacate(context)
        const { place } = (first as InQueue).ticket
        await claim(context, 'w', first?.ticket as Ticket, first?.client)
        await context.until('word of the grant', () => {
          const told = second?.heard.filter(isTaken)
          const isNext = (to: Place | undefined): boolean => to?.place === second?.ticket.place && to?.ahead === 0
          return told?.some((it) => it.place === place && it.durationMs === longMs && isNext(it.to)) || told
        })
        same((await first?.after())?.filter(isTaken), [], 'what the one that was granted has heard of it')
        same(await third?.after(), [], 'what the one behind has heard')
      },
      'queues',
      'addressed',
    )

    clause(
      'when the first in the queue leaves a vacant lease, those behind are notified anew',
      async (context) => {
        const [first, second, third] = await inQueue(context, 3)
        await vacate(context)
        first?.client.leaveQueue?.(context.lease, first.ticket)
        await isTold(context, second, 0)
        await isTold(context, third, 1)
      },
      'queues',
      'addressed',
    )

    clause(
      'when the one that stands in leaves a vacant lease, the one behind is notified that it stands in',
      async (context) => {
        const [, second, third] = await inQueue(context, 3)
        await vacate(context)
        second?.client.leaveQueue?.(context.lease, second.ticket)
        await isTold(context, third, 1)
      },
      'queues',
      'addressed',
    )

    clause(
      'when one leaves a lease that is held, nobody is notified',
      async (context) => {
        const { b, lease } = context
        const [first, second] = await inQueue(context, 2)
        first?.client.leaveQueue?.(lease, first.ticket)
        await context.until('leave', async () => {
          await rejects('LEASE_INVALID', claim(context, 'w', second?.ticket as Ticket, second?.client), 'a claim')
          return second?.ticket.ahead === 0
        })
        same(await second?.after(), [], 'what the one behind has heard')
        same((await context.holding(b))?.holder, ALICE, 'the holder')
      },
      'queues',
      'addressed',
    )

    clause(
      'when those who were notified do not come, they are passed over and the next ones are notified',
      async (context) => {
        const [, , third, fourth, fifth] = await inQueue(context, 5)
        await context.a.releaseLease(context.lease, ALICE)
        await isTold(context, third, 0)
        await isTold(context, fourth, 1)
        await isTold(context, fifth, 0)
      },
      'queues',
      'addressed',
    )

    clause(
      'a client that was granted the lease past those in the queue has them passed over after its release',
      async (context) => {
        const { b, lease, longMs } = context
        const [, , third, fourth] = await inQueue(context, 4)
        await vacate(context)
        await b.claimLease(lease, { holder: CAROL, duration: longMs })
        await b.releaseLease(lease, CAROL)
        await isTold(context, third, 0)
        await isTold(context, fourth, 1)
      },
      'queues',
      'addressed',
    )

    clause(
      'nobody is passed over while the lease is held',
      async (context) => {
        const { a, clock, longMs } = context
        const [first, second, third] = await hearers(context, 3)
        await context.undisturbed(longMs, async (lease) => {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const tickets: Ticket[] = []
          for (const hearer of [first, second, third]) tickets.push(await enter(context, 'w', hearer?.client))
          const releasedMs = clock.monotonic()
          await a.releaseLease(lease, ALICE)
          await claim(context, 'w', tickets[0] as Ticket, first?.client)
          if (context.realTime && clock.monotonic() - releasedMs >= PASS_OVER_MS) {
            throw new TooSlow({ message: 'the first came when it had been passed over' })
          }
          await context.pass(2 * PASS_OVER_MS)
          const ticket = tickets[2] as Ticket
          await rejects('LEASE_INVALID', claim(context, 'w', ticket, third?.client), 'a claim of one who waits')
          same(ticket.ahead, 1, 'how many are ahead')
          const heard = (await third?.after())?.filter((change) => 'lease' in change && change.lease === lease)
          same(heard, [], 'what the last one has heard')
        })
      },
      'queues',
      'addressed',
    )

    clause(
      'a release is reported to nobody who has not asked',
      async (context) => {
        const { a, lease, longMs } = context
        const listener = await context.hearer()
        await listener.client.claimLease(`${lease}-own`, { holder: BOB, duration: longMs })
        await listener.client.refresh([lease])
        for (let times = 1; times <= 3; times++) {
          await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
          await a.releaseLease(lease, ALICE)
        }
        same(await listener.after(), [], 'what was heard')
      },
      'addressed',
    )

    clause(
      'a watcher of a lease hears of every change since the state that it saw, until it stops',
      async (context) => {
        const { a, lease, longMs } = context
        const { client, heard, after } = await context.hearer()
        const watcher = {}
        const tellsOf = (kind: LeaseChange['kind']): boolean =>
          heard.some((change) => change.kind === kind && 'lease' in change && change.lease === lease)
        await client.refresh([lease], { watcher })
        same(client.leases().get(lease), undefined, 'the state that it saw')
        await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
        await context.until('word of the claim', () => tellsOf('changed') || heard)
        await client.refresh([lease], { watcher })
        same(known(client, lease).holder, ALICE, 'the holder that it saw')
        await a.releaseLease(lease, ALICE)
        await context.until('word of the release', () => tellsOf('vacated') || heard)
        client.unwatch?.(lease, watcher)
        await client.claimLease(`${lease}-own`, { holder: BOB, duration: longMs })
        await context.pass(context.unitMs)
        const before = (await after()).length
        await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
        await a.releaseLease(lease, ALICE)
        same((await after()).slice(before), [], 'what was heard since it stopped')
      },
      'addressed',
    )

    clause(
      'a watcher of a lease at the moment of its release has seen the release, or is notified of it',
      async (context) => {
        const { a, longMs } = context
        const { client, heard } = await context.hearer()
        for (const [round, lease] of context.leases(RACES).entries()) {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const watching = client.refresh([lease], { watcher: {} })
          for (let turn = 0; turn < round % TURNS; turn++) await Promise.resolve()
          await Promise.all([a.releaseLease(lease, ALICE), watching])
          if (client.leases().get(lease) === undefined) continue
          await context.until(
            'word of the release for one who has seen the holder',
            () => heard.some((it) => it.kind === 'vacated' && it.lease === lease) || heard,
          )
        }
      },
      'addressed',
    )

    clause(
      'one who stops to watch a lease stops nobody else',
      async (context) => {
        const { a, lease, longMs } = context
        const [one, other] = await hearers(context, 2)
        for (const hearer of [one, other]) await hearer?.client.refresh([lease], { watcher: context })
        one?.client.unwatch?.(lease, context)
        await one?.client.claimLease(lease, { holder: BOB, duration: longMs }) // it comes after that
        await one?.client.releaseLease(lease, BOB)
        await context.until(
          'word of the release',
          () => other?.heard.some((it) => it.kind === 'vacated' && it.lease === lease) || other?.heard,
        )
        await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
        await context.until(
          'word of the claim',
          () => other?.heard.some((it) => it.kind === 'changed' && it.lease === lease) || other?.heard,
        )
        same(await one?.after(), [], 'what the one that stopped has heard')
      },
      'addressed',
    )

    clause(
      'a watch that is not renewed lapses',
      async (context) => {
        const { a, lease, longMs } = context
        const [one, other] = await hearers(context, 2)
        for (const hearer of [one, other]) await hearer?.client.refresh([lease], { watcher: context })
        await context.pass(INTEREST_MS * 0.6)
        await other?.client.refresh([lease], { watcher: context })
        await context.pass(INTEREST_MS * 0.6)
        await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
        await a.releaseLease(lease, ALICE)
        same(
          (await other?.after())?.map(({ kind }) => kind),
          ['changed', 'vacated'],
          'what the one that renewed it has heard',
        )
        same(await one?.after(), [], 'what the other one has heard')
      },
      'addressed',
      'exactClock',
    )

    clause(
      'a holder is notified when another ends its term, and not of its own doing',
      async (context) => {
        const { a, lease, longMs } = context
        const { client, heard, after } = await context.hearer()
        await client.claimLease(lease, { holder: BOB, duration: longMs })
        await client.releaseLease(lease, BOB)
        same(await after(), [], 'what was heard of its own doing')
        await client.claimLease(lease, { holder: BOB, duration: longMs })
        await a.refresh([lease])
        await a.releaseLease(lease, BOB, { term: termOf(known(a, lease)) })
        await context.until(
          'word of the end',
          () => heard.some((it) => it.kind === 'vacated' && it.lease === lease) || heard,
        )
      },
      'addressed',
    )

    clause(
      'the client that has adopted a term is notified of its end, and the one that opened it is not',
      async (context) => {
        const { a, lease, longMs } = context
        const [opener, adopter] = await hearers(context, 2)
        await opener?.client.claimLease(lease, { holder: BOB, duration: longMs })
        await adopter?.client.refresh([lease])
        await adopter?.client.extendLease(lease, { holder: BOB, duration: longMs })
        await a.refresh([lease])
        await a.releaseLease(lease, BOB, { term: termOf(known(a, lease)) })
        await context.until(
          'word of the end',
          () => adopter?.heard.some((it) => it.kind === 'vacated' && it.lease === lease) || adopter?.heard,
        )
        same(await opener?.after(), [], 'what the one that opened it has heard')
      },
      'addressed',
    )
  },
}

/** So many times two things are done at the same moment, each time a little more of one before the other. */
const RACES = 20
const TURNS = 10

/** One who waits for the lease of the clause, in a process of its own. */
interface InQueue extends Hearer {
  readonly ticket: Ticket
}

/** The lease is held, and so many wait for it. */
async function inQueue(context: Context, count: number): Promise<InQueue[]> {
  await context.a.claimLease(context.lease, { holder: ALICE, duration: context.longMs })
  return join(context, count)
}

async function join(context: Context, count: number): Promise<InQueue[]> {
  const waiters: InQueue[] = []
  for (const hearer of await hearers(context, count)) {
    waiters.push({ ...hearer, ticket: await enter(context, 'w', hearer.client) })
  }
  return waiters
}

function vacate(context: Context): Promise<void> {
  return releaseAndClose(context, context.lease, ALICE)
}

/** The lease of the clause is vacant, and so many are ahead of this one. */
async function isTold(context: Context, waiter: InQueue | undefined, ahead: number): Promise<void> {
  assert(waiter !== undefined)
  const { place } = waiter.ticket
  const { lease } = context
  await context.until('word of the vacancy', () => {
    const told = waiter.heard.filter((change) => change.kind === 'vacated' && change.lease === lease)
    return told.some((it) => 'to' in it && it.to?.place === place && it.to.ahead === ahead) || told
  })
}

async function outcomeOf(claiming: Promise<void>): Promise<'granted' | 'refused'> {
  try {
    await claiming
    return 'granted'
  } catch (error) {
    if (codeOf(error) === 'LEASE_INVALID') return 'refused'
    throw error
  }
}

/** One after the other: on a test clock time is moved by one at a time. */
async function hearers(context: Context, count: number): Promise<Hearer[]> {
  const opened: Hearer[] = []
  for (let index = 0; index < count; index++) opened.push(await context.hearer())
  return opened
}

/** One who waits claims in vain, and so gets into the queue. */
async function enter(context: Context, holder: string, client: Client = context.b): Promise<Ticket> {
  const ticket = noTicket()
  await rejects('LEASE_INVALID', claim(context, holder, ticket, client), 'a claim of one who waits')
  assert(ticket.place > 0, 'the refusal gave no ticket')
  return ticket
}

function claim(
  { b, lease, longMs }: Context,
  holder: string,
  ticket: Ticket,
  client: Client = b,
): ReturnType<Client['claimLease']> {
  return client.claimLease(lease, { holder, duration: longMs }, { ticket })
}

function isTaken(change: LeaseChange): change is Extract<LeaseChange, { kind: 'taken' }> {
  return change.kind === 'taken'
}
