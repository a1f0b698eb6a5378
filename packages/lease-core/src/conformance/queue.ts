import assert from 'node:assert/strict'
import type { Client, LeaseChange } from '../client.ts'
import { noTicket, type Ticket } from '../ticket.ts'
import { ALICE, BOB, CAROL, known, rejects, same, termOf, type Chapter, type Hearer, type Scene } from './kit.ts'

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
        await a.releaseLease(lease, ALICE)
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
        const { a, lease, longMs } = scene
        const listeners = await hearers(scene, 4)
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const tickets: Ticket[] = []
        for (const { client } of listeners) tickets.push(await enter(scene, 'w', client))
        await a.releaseLease(lease, ALICE)
        const [first, second, ...others] = listeners
        for (const [ahead, listener] of [first, second].entries()) {
          const { place } = tickets[ahead] as Ticket
          await scene.until('word of the vacancy', () => {
            const told = listener?.heard.filter((change) => change.kind === 'vacated' && change.lease === lease)
            return (
              told?.some((change) => 'to' in change && change.to?.place === place && change.to.ahead === ahead) || told
            )
          })
        }
        for (const listener of others) same(await listener.after(), [], 'what those behind have heard')
      },
      'queues',
      'addressed',
    )

    clause(
      'when one who waited is granted the lease the next one is told: that it is first, and for how long the lease is taken',
      async (scene) => {
        const { a, lease, longMs } = scene
        const listeners = await hearers(scene, 3)
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const tickets: Ticket[] = []
        for (const { client } of listeners) tickets.push(await enter(scene, 'w', client))
        await a.releaseLease(lease, ALICE)
        const [first, second, third] = listeners
        const [ticket, next] = tickets
        const place = ticket?.place
        await first?.client.claimLease(lease, { holder: 'w', duration: longMs }, { ticket })
        await scene.until('word of the grant', () => {
          const told = second?.heard.filter(isTaken)
          return (
            told?.some(
              (it) =>
                it.place === place && it.durationMs === longMs && it.to?.place === next?.place && it.to?.ahead === 0,
            ) || told
          )
        })
        same(await third?.after(), [], 'what the one behind has heard')
      },
      'queues',
      'addressed',
    )

    clause(
      'when the first in the queue leaves a vacant lease, those behind are told anew',
      async (scene) => {
        const { a, lease, longMs } = scene
        const listeners = await hearers(scene, 3)
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const tickets: Ticket[] = []
        for (const { client } of listeners) tickets.push(await enter(scene, 'w', client))
        await a.releaseLease(lease, ALICE)
        for (const [index, { client }] of listeners.slice(0, 2).entries())
          client.leaveQueue?.(lease, tickets[index] as Ticket)
        const [, , third] = listeners
        const place = tickets[2]?.place
        await scene.until('word for the third', () => {
          const told = third?.heard ?? []
          return told.some((it) => it.kind === 'vacated' && it.to?.place === place && it.to?.ahead === 0) || told
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
  },
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
