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
  same,
  termOf,
  TooSlow,
  type Chapter,
  type Hearer,
  type Scene,
} from './kit.ts'

/** Those who wait have tickets, so that a vacancy is not everybody's at once (`ticket.ts` of lease-core). */
export const queue: Chapter = {
  title: 'queue',
  state(clause) {
    clause(
      'each claim of one who waits that is refused gives a ticket behind the others, and a ticket is kept',
      async (scene) => {
        const { a, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(scene, BOB), await enter(scene, CAROL)]
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}`)
        same([bob.ahead, carol.ahead], [0, 1], 'how many are ahead')
        const before = { ...carol }
        await rejects('LEASE_INVALID', claim(scene, CAROL, carol), 'a second claim')
        same(carol, before, 'the ticket')
      },
      'queues',
    )

    clause(
      'the store says how many are in the queue of a lease',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        const seen = async (client: Client): Promise<number | undefined> => client.waiting?.(lease)
        same([await seen(a), await seen(b)], [0, 0], 'how many wait before anybody does')
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const bob = await enter(scene, BOB)
        const carol = await enter(scene, CAROL)
        same([await seen(a), await seen(b)], [2, 2], 'how many wait')
        b.leaveQueue?.(lease, bob)
        await rejects('LEASE_INVALID', claim(scene, CAROL, carol), 'a claim of one who waits')
        same(await seen(a), 1, 'how many wait after one has left')
        await a.releaseLease(lease, ALICE)
        await claim(scene, CAROL, carol)
        same(await seen(a), 0, 'how many wait after the other was granted the lease')
      },
      'queues',
    )

    clause(
      'whoever waits alone stands before an empty queue',
      async (scene) => {
        await claim(scene, BOB, noTicket())
        same((await scene.holding(scene.a))?.holder, BOB, 'the holder')
      },
      'queues',
    )

    clause(
      'whoever has no ticket does not get past those who have one, though the lease is vacant',
      async (scene) => {
        const { a, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const bob = await enter(scene, BOB)
        await a.releaseLease(lease, ALICE)
        const carol = await enter(scene, CAROL)
        same(await scene.holding(a), undefined, 'the holding')
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}`)
        await claim(scene, BOB, bob)
        same((await scene.holding(a))?.holder, BOB, 'the holder')
      },
      'queues',
    )

    clause(
      'whoever has a ticket is granted a vacant lease, also before those ahead, who keep theirs',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(scene, BOB), await enter(scene, CAROL)]
        await a.releaseLease(lease, ALICE)
        await claim(scene, CAROL, carol)
        const { place } = bob
        const dave = await enter(scene, 'dave')
        same(dave.ahead, 0, 'how many are ahead of one who comes after a grant to the last')
        await rejects('LEASE_INVALID', claim(scene, BOB, bob), "a claim of another's lease")
        same([bob.place, bob.ahead], [place, 0], 'the ticket')
        await rejects('LEASE_INVALID', claim(scene, 'dave', dave), "a claim of another's lease")
        same(dave.ahead, 1, 'how many are ahead of the one who came last')
        await b.releaseLease(lease, CAROL)
        await claim(scene, BOB, bob)
        same((await scene.holding(a))?.holder, BOB, 'the holder')
      },
      'queues',
    )

    clause(
      'a grant takes those out of the queue who were told before it, and leaves those in who were not',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const tickets: Ticket[] = []
        for (const holder of ['first', 'second', 'third', 'fourth', 'fifth']) tickets.push(await enter(scene, holder))
        await vacate(scene)
        const [first, , third, fourth, fifth] = tickets as [Ticket, Ticket, Ticket, Ticket, Ticket]
        await claim(scene, 'fourth', fourth)
        same((await enter(scene, 'sixth')).ahead, 2, 'how many are ahead of one who comes after the grant')
        for (const [ticket, ahead] of [
          [fifth, 1],
          [third, 0],
          [first, 0],
        ] as const) {
          await rejects('LEASE_INVALID', claim(scene, 'w', ticket), 'a claim of one who waits')
          same(ticket.ahead, ahead, `how many are ahead of ticket ${ticket.place}`)
        }
        await b.releaseLease(lease, 'fourth')
        await claim(scene, 'first', first)
        await b.releaseLease(lease, 'first')
        await claim(scene, 'third', third)
        same((await scene.holding(a))?.holder, 'third', 'the holder')
      },
      'queues',
    )

    clause(
      'the queue ends with its last ticket, and who comes then is granted a vacant lease at once',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(scene, BOB), await enter(scene, CAROL)]
        await a.releaseLease(lease, ALICE)
        await claim(scene, BOB, bob)
        const late = await enter(scene, 'dave')
        same(late.ahead, 1, 'how many are ahead of one who comes after the first was served')
        for (const [before, next, ticket] of [
          [BOB, CAROL, carol],
          [CAROL, 'dave', late],
        ] as const) {
          await b.releaseLease(lease, before)
          await claim(scene, next, ticket)
        }
        await b.releaseLease(lease, 'dave')
        await claim(scene, 'erin', noTicket())
        same((await scene.holding(a))?.holder, 'erin', 'the holder')
      },
      'queues',
    )

    clause(
      'whoever leaves is ahead of nobody, and a queue that all have left keeps nobody out',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(scene, BOB), await enter(scene, CAROL)]
        b.leaveQueue?.(lease, bob)
        await rejects('LEASE_INVALID', claim(scene, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 0, 'how many are ahead')
        b.leaveQueue?.(lease, carol)
        await a.releaseLease(lease, ALICE)
        await claim(scene, 'dave', noTicket())
        same((await scene.holding(a))?.holder, 'dave', 'the holder')
      },
      'queues',
    )

    clause(
      'no ticket is given twice, though the queue was empty in between',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const bob = await enter(scene, BOB)
        b.leaveQueue?.(lease, bob)
        const carol = await enter(scene, CAROL)
        same(carol.ahead, 0, 'how many are ahead')
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}, who left`)
        const { place } = carol
        await a.releaseLease(lease, ALICE)
        await claim(scene, CAROL, carol)
        const dave = await enter(scene, 'dave')
        same(dave.ahead, 0, 'how many are ahead')
        assert(dave.place > place, `place ${dave.place} was given after ${place}, who was served`)
      },
      'queues',
    )

    clause(
      'a ticket of which the store hears no more lapses, and one that is renewed does not',
      async (scene) => {
        const { a, b, lease } = scene
        const duration = 4 * INTEREST_MS
        await a.claimLease(lease, { holder: ALICE, duration })
        const [bob, carol] = [await enter(scene, BOB), await enter(scene, CAROL)]
        await scene.pass(INTEREST_MS * 0.6)
        await rejects('LEASE_INVALID', claim(scene, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 1, 'how many are ahead before the first has lapsed')
        await scene.pass(INTEREST_MS * 0.6)
        const dave = noTicket()
        const asked = { holder: 'dave', duration }
        await rejects('LEASE_INVALID', b.claimLease(lease, asked, { ticket: dave, maxWaiters: 2 }), 'a claim')
        same([dave.ahead, dave.isFull], [1, false], 'how many are ahead of one who comes later')
        const before = { ...bob }
        await rejects('LEASE_INVALID', claim(scene, BOB, bob), 'a claim of one who comes back')
        same(bob, before, 'the ticket of one who comes back')
        await rejects('LEASE_INVALID', claim(scene, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 1, 'how many are ahead once the first is back')
      },
      'queues',
      'exactClock',
    )

    clause(
      'nobody gives up the ticket of another client',
      async (scene) => {
        const { a, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await enter(scene, BOB), await enter(scene, CAROL)]
        a.leaveQueue?.(lease, bob)
        await a.extendLease(lease, { holder: ALICE, duration: longMs }) // it comes after that
        await rejects('LEASE_INVALID', claim(scene, CAROL, carol), 'a claim of one who waits')
        same(carol.ahead, 1, 'how many are ahead')
      },
      'queues',
    )

    clause(
      'a queue that is full lets nobody in, and keeps those who are in it',
      async (scene) => {
        const { a, b, lease, longMs } = scene
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
        same((await enter(scene, 'erin')).ahead, 2, 'how many are ahead of one who does not mind')
        await a.releaseLease(lease, ALICE)
        // One who comes to a vacant lease waits behind those who are first, however many: they may be dead.
        const frank = noTicket()
        const late = b.claimLease(lease, asked('frank'), { ticket: frank, ...options })
        await rejects('LEASE_INVALID', late, 'a claim of a vacant lease for which others wait')
        same([frank.ahead, frank.isFull], [3, false], 'how many are ahead of one who comes to a vacant lease')
        await claim(scene, CAROL, carol)
        same((await scene.holding(a))?.holder, CAROL, 'the holder')
      },
      'queues',
    )

    clause(
      'a claim of one who does not wait knows nothing of queues',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await enter(scene, BOB)
        await a.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: CAROL, duration: longMs })
        same((await scene.holding(a))?.holder, CAROL, 'the holder')
      },
      'queues',
    )

    clause(
      'a lapsed lease is taken with a ticket as well, in a later term',
      async (scene) => {
        const { a, b, unitMs } = scene
        const { lease, durationMs, outcome } = await scene.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          const { fencingToken } = known(a, lease)
          return { fencingToken, bob: await enter(scene, BOB) }
        })
        await scene.lapse(lease, durationMs, b)
        await claim(scene, BOB, outcome.bob)
        assert(known(b, lease).fencingToken > outcome.fencingToken, 'the fencing token did not rise')
      },
      'queues',
    )

    clause(
      'those who hear of everything hear of a grant to one who waited, with ticket and duration',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        const heard = scene.listen(await scene.open())
        let ticket = noTicket()
        // More than once, for a subscription needs a moment to be in force.
        await scene.until('word of a grant to one who waited', async () => {
          await b.releaseLease(lease, BOB)
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          ticket = await enter(scene, BOB)
          await a.releaseLease(lease, ALICE)
          const { place } = ticket
          await claim(scene, BOB, ticket)
          ticket = { ...ticket, place }
          await scene.pass(scene.unitMs / 10)
          return heard.some((change) => isTaken(change) && change.lease === lease) || heard
        })
        const grants = heard.filter(isTaken).filter((grant) => grant.lease === lease)
        same(
          grants.every(({ durationMs }) => durationMs === longMs),
          true,
          'the duration told',
        )
        await scene.until(
          'word of the last grant',
          () => heard.some((it) => isTaken(it) && it.lease === lease && it.place === ticket.place) || heard,
        )
      },
      'queues',
      'notifications',
    )

    // ── who is told ───────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'the first in the queue is told of a vacancy, and one that stands in, each with how many are ahead, and nobody else',
      async (scene) => {
        const waiters = await inQueue(scene, 4)
        await vacate(scene)
        await isTold(scene, waiters[0], 0)
        await isTold(scene, waiters[1], 1)
        for (const { after } of waiters.slice(2)) same(await after(), [], 'what those behind have heard')
      },
      'queues',
      'addressed',
    )

    clause(
      'the first in the queue is told when a lapsed lease is expired',
      async (scene) => {
        const { a, b, unitMs } = scene
        const hearer = await scene.hearer()
        const { lease, durationMs, outcome } = await scene.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          return enter(scene, 'w', hearer.client)
        })
        await scene.lapse(lease, durationMs, b)
        await b.expireLease(lease)
        await isTold(scene, { ...hearer, ticket: outcome }, 0)
      },
      'queues',
      'addressed',
    )

    clause(
      'the first in the queue is told when a lease lapses with its last pin',
      async (scene) => {
        const { a, unitMs } = scene
        const { lease, durationMs } = await scene.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          await a.pinLease(lease, 'e')
        })
        const [first] = await join(scene, 1)
        await scene.lapse(lease, durationMs, a)
        await a.unpinLease(lease, 'e')
        await isTold(scene, first, 0)
        same(await scene.holding(scene.b), undefined, 'the holding')
      },
      'queues',
      'addressed',
    )

    clause(
      'a claim that is refused at the moment of a release is in the queue by then, and told',
      async (scene) => {
        const { a, longMs } = scene
        const { client, heard } = await scene.hearer()
        for (const [round, lease] of scene.leases(RACES).entries()) {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const ticket = noTicket()
          const claiming = client.claimLease(lease, { holder: BOB, duration: longMs }, { ticket })
          for (let turn = 0; turn < round % TURNS; turn++) await Promise.resolve()
          const [, outcome] = await Promise.all([a.releaseLease(lease, ALICE), outcomeOf(claiming)])
          if (outcome === 'granted') continue
          await scene.until(
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
      'when one who waited is granted the lease the next one is told: that it is first, and for how long the lease is taken',
      async (scene) => {
        const { longMs } = scene
        const [first, second, third] = await inQueue(scene, 3)
        await vacate(scene)
        const { place } = (first as InQueue).ticket
        await claim(scene, 'w', first?.ticket as Ticket, first?.client)
        await scene.until('word of the grant', () => {
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
      'when the first in the queue leaves a vacant lease, those behind are told anew',
      async (scene) => {
        const [first, second, third] = await inQueue(scene, 3)
        await vacate(scene)
        first?.client.leaveQueue?.(scene.lease, first.ticket)
        await isTold(scene, second, 0)
        await isTold(scene, third, 1)
      },
      'queues',
      'addressed',
    )

    clause(
      'when the one that stands in leaves a vacant lease, the one behind is told that it stands in',
      async (scene) => {
        const [, second, third] = await inQueue(scene, 3)
        await vacate(scene)
        second?.client.leaveQueue?.(scene.lease, second.ticket)
        await isTold(scene, third, 1)
      },
      'queues',
      'addressed',
    )

    clause(
      'when one leaves a lease that is held, nobody is told',
      async (scene) => {
        const { b, lease } = scene
        const [first, second] = await inQueue(scene, 2)
        first?.client.leaveQueue?.(lease, first.ticket)
        await scene.until('leave', async () => {
          await rejects('LEASE_INVALID', claim(scene, 'w', second?.ticket as Ticket, second?.client), 'a claim')
          return second?.ticket.ahead === 0
        })
        same(await second?.after(), [], 'what the one behind has heard')
        same((await scene.holding(b))?.holder, ALICE, 'the holder')
      },
      'queues',
      'addressed',
    )

    clause(
      'when those who were told do not come, they are passed over and the next ones are told',
      async (scene) => {
        const [, , third, fourth, fifth] = await inQueue(scene, 5)
        await scene.a.releaseLease(scene.lease, ALICE)
        await isTold(scene, third, 0)
        await isTold(scene, fourth, 1)
        await isTold(scene, fifth, 0)
      },
      'queues',
      'addressed',
    )

    clause(
      'a client that was granted the lease past those in the queue has them passed over after its release',
      async (scene) => {
        const { b, lease, longMs } = scene
        const [, , third, fourth] = await inQueue(scene, 4)
        await vacate(scene)
        await b.claimLease(lease, { holder: CAROL, duration: longMs })
        await b.releaseLease(lease, CAROL)
        await isTold(scene, third, 0)
        await isTold(scene, fourth, 1)
      },
      'queues',
      'addressed',
    )

    clause(
      'nobody is passed over while the lease is held',
      async (scene) => {
        const { a, clock, longMs } = scene
        const [first, second, third] = await hearers(scene, 3)
        await scene.undisturbed(longMs, async (lease) => {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const tickets: Ticket[] = []
          for (const hearer of [first, second, third]) tickets.push(await enter(scene, 'w', hearer?.client))
          const releasedMs = clock.monotonic()
          await a.releaseLease(lease, ALICE)
          await claim(scene, 'w', tickets[0] as Ticket, first?.client)
          if (scene.realTime && clock.monotonic() - releasedMs >= PASS_OVER_MS) {
            throw new TooSlow({ message: 'the first came when it had been passed over' })
          }
          await scene.pass(2 * PASS_OVER_MS)
          const ticket = tickets[2] as Ticket
          await rejects('LEASE_INVALID', claim(scene, 'w', ticket, third?.client), 'a claim of one who waits')
          same(ticket.ahead, 1, 'how many are ahead')
          const heard = (await third?.after())?.filter((change) => 'lease' in change && change.lease === lease)
          same(heard, [], 'what the last one has heard')
        })
      },
      'queues',
      'addressed',
    )

    clause(
      'a release is told to nobody who has not asked',
      async (scene) => {
        const { a, lease, longMs } = scene
        const listener = await scene.hearer()
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
      'whoever watches a lease hears of every change since the state that it saw, until it stops',
      async (scene) => {
        const { a, lease, longMs } = scene
        const { client, heard, after } = await scene.hearer()
        const watcher = {}
        const tellsOf = (kind: LeaseChange['kind']): boolean =>
          heard.some((change) => change.kind === kind && 'lease' in change && change.lease === lease)
        await client.refresh([lease], { watcher })
        same(client.leases().get(lease), undefined, 'the state that it saw')
        await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
        await scene.until('word of the claim', () => tellsOf('changed') || heard)
        await client.refresh([lease], { watcher })
        same(known(client, lease).holder, ALICE, 'the holder that it saw')
        await a.releaseLease(lease, ALICE)
        await scene.until('word of the release', () => tellsOf('vacated') || heard)
        client.unwatch?.(lease, watcher)
        await client.claimLease(`${lease}-own`, { holder: BOB, duration: longMs })
        await scene.pass(scene.unitMs)
        const before = (await after()).length
        await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
        await a.releaseLease(lease, ALICE)
        same((await after()).slice(before), [], 'what was heard since it stopped')
      },
      'addressed',
    )

    clause(
      'whoever watches a lease at the moment of its release has seen the release, or is told of it',
      async (scene) => {
        const { a, longMs } = scene
        const { client, heard } = await scene.hearer()
        for (const [round, lease] of scene.leases(RACES).entries()) {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const watching = client.refresh([lease], { watcher: {} })
          for (let turn = 0; turn < round % TURNS; turn++) await Promise.resolve()
          await Promise.all([a.releaseLease(lease, ALICE), watching])
          if (client.leases().get(lease) === undefined) continue
          await scene.until(
            'word of the release for one who has seen the holder',
            () => heard.some((it) => it.kind === 'vacated' && it.lease === lease) || heard,
          )
        }
      },
      'addressed',
    )

    clause(
      'one who stops to watch a lease stops nobody else',
      async (scene) => {
        const { a, lease, longMs } = scene
        const [one, other] = await hearers(scene, 2)
        for (const hearer of [one, other]) await hearer?.client.refresh([lease], { watcher: scene })
        one?.client.unwatch?.(lease, scene)
        await one?.client.claimLease(lease, { holder: BOB, duration: longMs }) // it comes after that
        await one?.client.releaseLease(lease, BOB)
        await scene.until(
          'word of the release',
          () => other?.heard.some((it) => it.kind === 'vacated' && it.lease === lease) || other?.heard,
        )
        await a.claimLease(lease, { holder: ALICE, duration: longMs, announce: true })
        await scene.until(
          'word of the claim',
          () => other?.heard.some((it) => it.kind === 'changed' && it.lease === lease) || other?.heard,
        )
        same(await one?.after(), [], 'what the one that stopped has heard')
      },
      'addressed',
    )

    clause(
      'a watch that is not renewed lapses',
      async (scene) => {
        const { a, lease, longMs } = scene
        const [one, other] = await hearers(scene, 2)
        for (const hearer of [one, other]) await hearer?.client.refresh([lease], { watcher: scene })
        await scene.pass(INTEREST_MS * 0.6)
        await other?.client.refresh([lease], { watcher: scene })
        await scene.pass(INTEREST_MS * 0.6)
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
      'a holder is told when another ends its term, and not of its own doing',
      async (scene) => {
        const { a, lease, longMs } = scene
        const { client, heard, after } = await scene.hearer()
        await client.claimLease(lease, { holder: BOB, duration: longMs })
        await client.releaseLease(lease, BOB)
        same(await after(), [], 'what was heard of its own doing')
        await client.claimLease(lease, { holder: BOB, duration: longMs })
        await a.refresh([lease])
        await a.releaseLease(lease, BOB, { term: termOf(known(a, lease)) })
        await scene.until(
          'word of the end',
          () => heard.some((it) => it.kind === 'vacated' && it.lease === lease) || heard,
        )
      },
      'addressed',
    )

    clause(
      'the client that has adopted a term is told of its end, and the one that opened it is not',
      async (scene) => {
        const { a, lease, longMs } = scene
        const [opener, adopter] = await hearers(scene, 2)
        await opener?.client.claimLease(lease, { holder: BOB, duration: longMs })
        await adopter?.client.refresh([lease])
        await adopter?.client.extendLease(lease, { holder: BOB, duration: longMs })
        await a.refresh([lease])
        await a.releaseLease(lease, BOB, { term: termOf(known(a, lease)) })
        await scene.until(
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
async function inQueue(scene: Scene, count: number): Promise<InQueue[]> {
  await scene.a.claimLease(scene.lease, { holder: ALICE, duration: scene.longMs })
  return join(scene, count)
}

async function join(scene: Scene, count: number): Promise<InQueue[]> {
  const waiters: InQueue[] = []
  for (const hearer of await hearers(scene, count)) {
    waiters.push({ ...hearer, ticket: await enter(scene, 'w', hearer.client) })
  }
  return waiters
}

/** Releases the lease, and is gone: nobody sees to it that those who were told come. */
async function vacate(scene: Scene): Promise<void> {
  const client = await scene.open()
  await client.releaseLease(scene.lease, ALICE)
  await client.close()
}

/** The lease of the clause is vacant, and so many are ahead of this one. */
async function isTold(scene: Scene, waiter: InQueue | undefined, ahead: number): Promise<void> {
  assert(waiter !== undefined)
  const { place } = waiter.ticket
  const { lease } = scene
  await scene.until('word of the vacancy', () => {
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
async function hearers(scene: Scene, count: number): Promise<Hearer[]> {
  const opened: Hearer[] = []
  for (let index = 0; index < count; index++) opened.push(await scene.hearer())
  return opened
}

/** One who waits claims in vain, and so gets into the queue. */
async function enter(scene: Scene, holder: string, client: Client = scene.b): Promise<Ticket> {
  const ticket = noTicket()
  await rejects('LEASE_INVALID', claim(scene, holder, ticket, client), 'a claim of one who waits')
  assert(ticket.place > 0, 'the refusal gave no ticket')
  return ticket
}

function claim(
  { b, lease, longMs }: Scene,
  holder: string,
  ticket: Ticket,
  client: Client = b,
): ReturnType<Client['claimLease']> {
  return client.claimLease(lease, { holder, duration: longMs }, { ticket })
}

function isTaken(change: LeaseChange): change is Extract<LeaseChange, { kind: 'taken' }> {
  return change.kind === 'taken'
}
