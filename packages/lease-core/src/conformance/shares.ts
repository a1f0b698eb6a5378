import assert from 'node:assert/strict'
import type { Client, CountedClient, CountedInfo, ShareRefusal } from '../client.ts'
import type { ErrInvalid } from '../errors.ts'
import { hasty } from './late.ts'
import { countedName, shareName, type ShareRequest } from '../share.ts'
import { noTicket, type Ticket } from '../ticket.ts'
import {
  ALICE,
  BOB,
  CAROL,
  codeOf,
  invalid,
  known,
  later,
  rejects,
  releaseAndClose,
  rises,
  same,
  termOf,
  type Suite,
  type Hearer,
  type Context,
} from './kit.ts'

/** A share is a lease whose claim a counted lease decides: the weights of those that stand never exceed its capacity (`share.ts`). */
export const shares: Suite = {
  title: 'shares',
  state(clause) {
    // ── capacity ──────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'shares are granted up to the capacity, and the next one is refused',
      async (context) => {
        const { a, b } = context
        await claim(context, ALICE, { capacity: 2 }, { client: a })
        await claim(context, BOB, { capacity: 2 }, { client: b })
        const refusal = await refused(context, CAROL, { capacity: 2 })
        same(refusal.capacity, 2, 'the capacity that the refusal shows')
        assert(refusal.blocking !== undefined, 'the refusal shows no share that is in the way')
        await holders(context, ALICE, BOB)
      },
      'shares',
    )

    clause(
      'the weights of all shares count, and one that does not fit is refused although there is room for less',
      async (context) => {
        await claim(context, ALICE, { weight: 3, capacity: 5 })
        await refused(context, BOB, { weight: 3, capacity: 5 })
        await claim(context, CAROL, { weight: 2, capacity: 5 })
        await refused(context, BOB, { weight: 1, capacity: 5 })
        const { shares } = await read(context)
        const weights = [...shares].map(([share, { weight }]) => [share, weight])
        same(
          new Map(weights as [string, number][]),
          new Map([
            [share(context, ALICE), 3],
            [share(context, CAROL), 2],
          ]),
          'the weights',
        )
      },
      'shares',
    )

    clause(
      'one share may take the whole capacity, however large, and keeps out all others until it ends',
      async (context) => {
        const capacity = 2 ** 30
        await claim(context, ALICE, { weight: capacity, capacity })
        await refused(context, BOB, { capacity })
        await context.a.releaseLease(share(context, ALICE), ALICE)
        for (const holder of [BOB, CAROL]) await claim(context, holder, { capacity })
        await refused(context, ALICE, { weight: capacity, capacity })
        await refused(context, ALICE, { weight: capacity - 1, capacity })
        await claim(context, ALICE, { weight: capacity - 2, capacity })
      },
      'shares',
    )

    clause(
      'what a release, a revocation or the end of its time frees is granted to the next',
      async (context) => {
        const { a, b, longMs } = context
        const live = await context.whileLive(context.unitMs, async (_, duration) => {
          await claim(context, ALICE, { capacity: 1 }, { duration })
          return known(b, share(context, ALICE))
        })
        await refused(context, BOB, { capacity: 1 }, { client: a, isOver: true })
        await context.lapse(share(context, ALICE), live.durationMs, a)
        await soon(context, BOB, { capacity: 1 }, a)
        rises(live.outcome.fencingToken, known(a, share(context, BOB)).fencingToken)
        await a.releaseLease(share(context, BOB), BOB)
        await claim(context, CAROL, { capacity: 1 }, { duration: longMs })
        await a.refresh([share(context, CAROL)])
        await a.releaseLease(share(context, CAROL), CAROL, { term: termOf(known(a, share(context, CAROL))) })
        await claim(context, ALICE, { capacity: 1 })
        await holders(context, ALICE)
      },
      'shares',
    )

    clause(
      "a share whose time is over is in nobody's way, also when its holder was refused another since",
      async (context) => {
        const { a, unitMs } = context
        const live = await context.whileLive(unitMs, async (_, duration) => {
          await claim(context, ALICE, { capacity: 3 }, { duration, client: a })
        })
        await claim(context, BOB, { weight: 2, capacity: 3 }, { client: a })
        await context.lapse(share(context, ALICE), live.durationMs, a)
        await context.until('refusal by the counted lease', async () => {
          const refusals: ShareRefusal[] = []
          const onRefused = (refusal: ShareRefusal): void => void refusals.push(refusal)
          const claiming = claim(context, ALICE, { weight: 2, capacity: 3 }, { client: a, onRefused })
          return ((await outcomeOf(claiming)) === 'refused' && refusals.length > 0) || refusals
        })
        await claim(context, CAROL, { capacity: 3 }, { client: a })
        await holders(context, BOB, CAROL)
      },
      'shares',
    )

    clause(
      'a share that is extended goes on counting, and one that is pinned counts when its time is over',
      async (context) => {
        const { a, b, unitMs } = context
        let durationMs = unitMs
        await context.undisturbed(unitMs, async (_, duration) => {
          durationMs = duration
          await a.pinLease(share(context, ALICE), 'operator')
          await claim(context, ALICE, { capacity: 2 }, { duration, client: b })
          await context.inTime(duration, async () => {
            await claim(context, BOB, { capacity: 2 }, { duration, client: b })
            await b.extendLease(share(context, BOB), { holder: BOB, duration: context.longMs })
          })
        })
        await context.lapse(share(context, ALICE), durationMs, a, b)
        await refused(context, CAROL, { capacity: 2 })
        await holders(context, ALICE, BOB)
        await a.unpinLease(share(context, ALICE), 'operator')
        await soon(context, CAROL, { capacity: 2 }, b)
        await a.refresh([share(context, ALICE)])
        await holders(context, BOB, CAROL)
      },
      'shares',
    )

    clause(
      'a share counts that was extended or pinned where another saw it last before that, however long ago',
      async (context) => {
        const { a, unitMs, longMs } = context
        const { durationMs } = await context.whileLive(unitMs, async (_, duration) => {
          await claim(context, ALICE, { capacity: 2 }, { duration, client: a })
          await claim(context, BOB, { capacity: 2 }, { duration, client: a })
          await refused(context, CAROL, { capacity: 2 })
          await a.extendLease(share(context, ALICE), { holder: ALICE, duration: longMs })
          await a.pinLease(share(context, BOB), 'operator')
        })
        await context.lapse(share(context, ALICE), durationMs)
        await refused(context, CAROL, { capacity: 2 })
        await holders(context, ALICE, BOB)
        await a.unpinLease(share(context, BOB), 'operator')
      },
      'shares',
    )

    clause(
      'of many that claim at once as many are granted as the capacity allows',
      async (context) => {
        const clients = await open(context, 6)
        for (let round = 0; round < 5; round++) {
          const name = `${context.lease}-${round}`
          const outcomes = await Promise.all(
            Array.from({ length: 12 }, (_, index) =>
              outcomeOf(claim(context, `h${index}`, { capacity: 3 }, { name, client: clients[index % 6] as Client })),
            ),
          )
          same(outcomes.filter((outcome) => outcome === 'granted').length, 3, 'how many were granted')
          same((await read(context, name)).shares.size, 3, 'how many shares stand')
        }
      },
      'shares',
      'alone',
    )

    clause(
      'shares that come and go at once never exceed the capacity',
      async (context) => {
        const clients = await open(context, 5)
        let weight = 0
        let most = 0
        const work = async (client: Client, index: number): Promise<void> => {
          const own = 1 + (index % 3)
          for (let turn = 0; turn < 12; turn++) {
            if ((await outcomeOf(claim(context, `h${index}`, { weight: own, capacity: 4 }, { client }))) === 'refused')
              continue
            most = Math.max(most, (weight += own))
            await Promise.resolve()
            weight -= own
            await client.releaseLease(share(context, `h${index}`), `h${index}`)
          }
        }
        await Promise.all(clients.map(work))
        assert(most >= 1 && most <= 4, `the weights came to ${most}`)
        same((await read(context)).shares.size, 0, 'how many shares stand in the end')
      },
      'shares',
      'alone',
    )

    // ── one share for each holder ─────────────────────────────────────────────────────────────────────────────────

    clause(
      'a holder has one share, however many of its claims run at once, and extends it like every lease',
      async (context) => {
        const clients = await open(context, 5)
        for (let round = 0; round < 4; round++) {
          const name = `${context.lease}-${round}`
          const claims = clients.map((client) => outcomeOf(claim(context, ALICE, { capacity: 4 }, { name, client })))
          const outcomes = await Promise.all(claims)
          same(outcomes.filter((outcome) => outcome === 'granted').length, 1, 'how many were granted')
          const { shares } = await read(context, name)
          same([...shares.keys()], [shareName(name, ALICE)], 'the shares')
        }
        const [client] = clients as [Client]
        const name = `${context.lease}-0`
        await client.refresh([shareName(name, ALICE)])
        const { fencingToken } = known(client, shareName(name, ALICE))
        await client.extendLease(shareName(name, ALICE), { holder: ALICE, duration: context.longMs })
        same(known(client, shareName(name, ALICE)).fencingToken, fencingToken, 'the fencing token')
      },
      'shares',
      'alone',
    )

    clause(
      'a claim by a holder that has its share is refused for that, and gets no ticket',
      async (context) => {
        await claim(context, ALICE, { capacity: 1 }, { client: context.a })
        const ticket = noTicket()
        let refusals = 0
        await invalid(
          claim(context, ALICE, { capacity: 1 }, { ticket, onRefused: () => refusals++ }),
          'a second claim of the holder',
        )
        same([ticket.place, refusals], [0, 0], 'the ticket, and how often the counted lease refused it')
        same(known(context.b, share(context, ALICE)).holder, ALICE, 'the holder')
        await context.a.releaseLease(share(context, ALICE), ALICE)
        await claim(context, BOB, { capacity: 1 })
      },
      'shares',
      'queues',
    )

    clause(
      'each share is released for itself, keeps its value, and is read like every lease',
      async (context) => {
        const { a, b, longMs } = context
        const request = { holder: ALICE, duration: longMs, value: 'of alice', share: { weight: 1, capacity: 3 } }
        await a.claimLease(share(context, ALICE), request)
        await claim(context, BOB, { capacity: 3 })
        await b.refresh([share(context, ALICE), context.lease])
        const { value, weight } = known(b, share(context, ALICE))
        same([value, weight], ['of alice', 1], 'value and weight')
        same(b.leases().get(context.lease), undefined, 'the lease of the same name')
        await a.releaseLease(share(context, ALICE), ALICE)
        await holders(context, BOB)
        await invalid(a.releaseLease(share(context, BOB), ALICE), "a release of another's share")
        await holders(context, BOB)
      },
      'shares',
    )

    clause(
      'a lease and a counted lease of one name have nothing to do with each other',
      async (context) => {
        const { a, b, lease, longMs } = context
        await claim(context, ALICE, { capacity: 1 })
        await a.claimLease(lease, { holder: BOB, duration: longMs })
        const waiting = await enter(context, CAROL, { capacity: 1 })
        const ofLease = noTicket()
        await invalid(b.claimLease(lease, { holder: CAROL, duration: longMs }, { ticket: ofLease }), 'the lease')
        same([waiting.ahead, ofLease.ahead], [0, 0], 'how many are ahead in the two queues')
        await a.releaseLease(lease, BOB)
        await b.claimLease(lease, { holder: CAROL, duration: longMs }, { ticket: ofLease })
        await holders(context, ALICE)
      },
      'shares',
      'queues',
    )

    clause(
      'namespaces have nothing to do with each other',
      async (context) => {
        const elsewhere = await context.openElsewhere()
        await claim(context, ALICE, { capacity: 1 })
        await claim(context, BOB, { capacity: 5 }, { client: elsewhere })
        same((await countedOf(elsewhere).read(countedName(context.lease))).capacity, 5, 'the capacity elsewhere')
        await holders(context, ALICE)
      },
      'shares',
    )

    clause(
      'fencing tokens rise over all shares of a counted lease',
      async (context) => {
        const clients = [context.a, context.b, await context.open()]
        let before = -1n
        for (let turn = 0; turn < 12; turn++) {
          const client = clients[turn % 3] as Client
          const holder = `h${turn % 5}`
          if (turn >= 5) await client.refresh([share(context, holder)])
          if (turn >= 5) await client.releaseLease(share(context, holder), holder)
          await claim(context, holder, { capacity: 5 }, { client })
          const { fencingToken } = known(client, share(context, holder))
          rises(before, fencingToken)
          before = fencingToken
        }
      },
      'shares',
    )

    // ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim without a capacity is refused while the counted lease is not defined, and one with another capacity while it is',
      async (context) => {
        const undefinedOne = await refused(context, ALICE, {})
        same(undefinedOne.capacity, undefined, 'the capacity')
        await claim(context, ALICE, { capacity: 2 })
        same((await refused(context, BOB, { capacity: 3 })).capacity, 2, 'the capacity')
        await claim(context, BOB, {})
        same((await read(context)).capacity, 2, 'the capacity that is read')
        await holders(context, ALICE, BOB)
      },
      'shares',
    )

    clause(
      'a definition changes the capacity for all later grants, and takes no share away',
      async (context) => {
        const first = await define(context, 3, undefined)
        for (const holder of [ALICE, BOB, CAROL]) await claim(context, holder, {})
        const second = await define(context, 1, first)
        await holders(context, ALICE, BOB, CAROL)
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await context.b.releaseLease(share(context, BOB), BOB)
        await refused(context, ALICE, {})
        await context.b.releaseLease(share(context, CAROL), CAROL)
        await claim(context, ALICE, {})
        await refused(context, BOB, {})
        await define(context, 2, second)
        await claim(context, BOB, {})
      },
      'shares',
    )

    clause(
      'a definition is refused unless the caller has seen the latest one',
      async (context) => {
        const first = await define(context, 3, undefined)
        const again = await invalid(define(context, 5, undefined, context.a), 'a second first definition')
        same((again as ErrInvalid).lease, countedName(context.lease), 'which one the error names')
        const second = await define(context, 4, first, context.b)
        assert(first !== second, 'two definitions have one generation')
        await invalid(define(context, 5, first, context.a), 'a definition over one that was not seen')
        same(
          await read(context).then(({ capacity, generation }) => [capacity, generation]),
          [4, second],
          'what is read',
        )
        const races = [6, 7, 8].map((capacity) =>
          outcomeOf(define(context, capacity, second, context.a).then(() => {})),
        )
        const outcomes = await Promise.all(races)
        same(
          outcomes.filter((outcome) => outcome === 'granted').length,
          1,
          'how many of three definitions at once took effect',
        )
      },
      'shares',
    )

    clause(
      'what is not defined any more grants nothing, and its shares stand and count for the next definition',
      async (context) => {
        const first = await define(context, 2, undefined)
        await claim(context, ALICE, {})
        await define(context, undefined, first)
        same((await refused(context, BOB, {})).capacity, undefined, 'the capacity')
        same((await read(context)).generation, undefined, 'the generation')
        await holders(context, ALICE)
        await invalid(define(context, 9, first), 'a definition over one that is gone')
        await define(context, 1, undefined)
        await refused(context, BOB, {})
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await claim(context, BOB, {})
      },
      'shares',
    )

    clause(
      'a claim with a capacity defines what is not defined, also if the shares that stand leave no room for it',
      async (context) => {
        const first = await define(context, 3, undefined)
        await claim(context, ALICE, { weight: 2 })
        await define(context, undefined, first)
        const { capacity } = await refused(context, BOB, { weight: 2, capacity: 3 })
        same([capacity, (await read(context)).capacity], [3, 3], 'the capacity, as it is answered and read')
        await claim(context, CAROL, {})
        await holders(context, ALICE, CAROL)
      },
      'shares',
    )

    // ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim that does not wait is refused while others do, though there is room',
      async (context) => {
        await claim(context, ALICE, { weight: 1, capacity: 2 })
        const bob = await enter(context, BOB, { weight: 2, capacity: 2 })
        await refused(context, CAROL, { capacity: 2 })
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await refused(context, CAROL, { capacity: 2 })
        await claim(context, BOB, { weight: 2, capacity: 2 }, { ticket: bob })
        await holders(context, BOB)
      },
      'shares',
      'queues',
    )

    clause(
      'who waits is served in the order of the tickets, whatever the weights',
      async (context) => {
        await claim(context, ALICE, { weight: 4, capacity: 4 })
        const bob = await enter(context, BOB, { weight: 4, capacity: 4 })
        const carol = await enter(context, CAROL, { capacity: 4 })
        same([bob.ahead, carol.ahead], [0, 1], 'how many are ahead')
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await refused(context, CAROL, { capacity: 4 }, { ticket: carol })
        same(carol.ahead, 1, 'how many are ahead still')
        await claim(context, BOB, { weight: 4, capacity: 4 }, { ticket: bob })
        await context.b.releaseLease(share(context, BOB), BOB)
        await claim(context, CAROL, { capacity: 4 }, { ticket: carol })
        await holders(context, CAROL)
      },
      'shares',
      'queues',
    )

    clause(
      'who waits passes those ahead who had their turn and did not come, and they leave the queue',
      async (context) => {
        await claim(context, ALICE, { capacity: 1 })
        const bob = await enter(context, BOB, { capacity: 1 })
        const carol = await enter(context, CAROL, { capacity: 1 })
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await claim(context, CAROL, { capacity: 1 }, { ticket: { ...carol, passing: 1 } })
        const dave = await enter(context, 'dave', { capacity: 1 })
        same(dave.ahead, 0, 'how many are ahead of one who comes then')
        const { place } = bob
        await refused(context, BOB, { capacity: 1 }, { ticket: bob })
        same([bob.place, bob.ahead], [place, 0], 'the ticket of the one who was passed')
      },
      'shares',
      'queues',
    )

    clause(
      'a claim that goes ahead passes all who wait, if there is room for each of them, and those that were not called stay',
      async (context) => {
        const { b } = context
        await claim(context, ALICE, { capacity: 2 })
        await claim(context, BOB, { capacity: 2 })
        const tickets = [await enter(context, 'w1', { capacity: 2 }), await enter(context, 'w2', { capacity: 2 })]
        tickets.push(await enter(context, 'w3', { capacity: 2 }))
        await refused(context, CAROL, { capacity: 2, ahead: true })
        await b.releaseLease(share(context, ALICE), ALICE)
        await claim(context, CAROL, { capacity: 2, ahead: true })
        await holders(context, BOB, CAROL)
        await b.releaseLease(share(context, BOB), BOB)
        await claim(context, 'w3', { capacity: 2 }, { ticket: { ...(tickets[2] as Ticket), passing: 2 } })
        await holders(context, CAROL, 'w3')
      },
      'shares',
      'queues',
    )

    clause(
      'nobody passes one ahead for whom there was no room',
      async (context) => {
        await claim(context, ALICE, { capacity: 4 })
        const bob = await enter(context, BOB, { weight: 4, capacity: 4 })
        const carol = await enter(context, CAROL, { capacity: 4 })
        await refused(context, CAROL, { capacity: 4 }, { ticket: { ...carol, passing: 1 } })
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await claim(context, BOB, { weight: 4, capacity: 4 }, { ticket: bob })
        await holders(context, BOB)
      },
      'shares',
      'queues',
    )

    clause(
      'who waits passes a heavier one ahead that had its turn, when the share in the way of that one has lapsed',
      async (context) => {
        const { a, unitMs } = context
        const live = await context.whileLive(unitMs, async (_, duration) => {
          await claim(context, ALICE, { capacity: 2 }, { duration })
          await enter(context, BOB, { weight: 2, capacity: 2 })
          return await enter(context, CAROL, { capacity: 2 }, { client: a })
        })
        await context.lapse(share(context, ALICE), live.durationMs, a)
        await claim(context, CAROL, { capacity: 2 }, { client: a, ticket: { ...live.outcome, passing: 1 } })
        await holders(context, CAROL)
      },
      'shares',
      'queues',
    )

    clause(
      'what no wait makes a claim that is granted gets no ticket',
      async (context) => {
        const ticket = noTicket()
        await refused(context, ALICE, {}, { ticket })
        await define(context, 2, undefined)
        await refused(context, ALICE, { weight: 3 }, { ticket })
        await refused(context, ALICE, { capacity: 3 }, { ticket })
        same(ticket.place, 0, 'the ticket')
        await claim(context, BOB, {}, { ticket: noTicket() })
      },
      'shares',
      'queues',
    )

    clause(
      'one who leaves the queue keeps nobody out any more',
      async (context) => {
        await claim(context, ALICE, { capacity: 4 })
        const bob = await enter(context, BOB, { weight: 4, capacity: 4 })
        await refused(context, CAROL, { capacity: 4 })
        context.b.leaveQueue?.(countedName(context.lease), bob)
        await context.until('room for one who comes then', async () => {
          return (await outcomeOf(claim(context, CAROL, { capacity: 4 }))) === 'granted'
        })
      },
      'shares',
      'queues',
    )

    clause(
      'who waits counts with the weight that it asked for last',
      async (context) => {
        for (const holder of [ALICE, BOB]) await claim(context, holder, { capacity: 2 })
        const carol = await enter(context, CAROL, { weight: 2, capacity: 2 })
        const eve = await enter(context, 'eve', { capacity: 2 })
        // Another of the same process goes on with the ticket, and asks for less.
        await refused(context, 'dave', { capacity: 2 }, { ticket: carol })
        await context.b.releaseLease(share(context, BOB), BOB)
        await claim(context, 'eve', { capacity: 2 }, { ticket: { ...eve, passing: 1 } })
        await holders(context, ALICE, 'eve')
      },
      'shares',
      'queues',
    )

    clause(
      'where too many wait already the next one gets no ticket, unless there is room',
      async (context) => {
        await claim(context, ALICE, { capacity: 1 })
        await enter(context, BOB, { capacity: 1 })
        const ticket = noTicket()
        await refused(context, CAROL, { capacity: 1 }, { ticket, maxWaiters: 1 })
        same([ticket.place, ticket.isFull], [0, true], 'the ticket')
        await enter(context, CAROL, { capacity: 1 }, { maxWaiters: 2 })
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await enter(context, 'dave', { capacity: 1 }, { maxWaiters: 1 })
      },
      'shares',
      'queues',
    )

    clause(
      'who waits knows which of the shares in the way lapses first, until it leaves',
      async (context) => {
        const { b, lease, longMs } = context
        const name = countedName(lease)
        await claim(context, ALICE, { capacity: 3 })
        await claim(context, BOB, { capacity: 3 }, { duration: longMs / 2 })
        await claim(context, CAROL, { capacity: 3 })
        await refused(context, 'dave', { capacity: 3 })
        same(countedOf(b).blocking(name), undefined, 'what one knows that does not wait')
        const ticket = await enter(context, 'dave', { capacity: 3 })
        same(countedOf(b).blocking(name)?.holder, BOB, 'whose share lapses first')
        await countedOf(b).read(name)
        same(countedOf(b).blocking(name)?.holder, BOB, 'whose share lapses first by a read of all')
        await b.releaseLease(share(context, BOB), BOB)
        same(countedOf(b).blocking(name), undefined, 'what is in the way when one of the shares is over')
        b.leaveQueue?.(name, ticket)
      },
      'shares',
      'queues',
    )

    // ── whom to notify ───────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a release notifies the first in the queue once there is room for it, and nobody before',
      async (context) => {
        await claim(context, ALICE, { capacity: 4 })
        await claim(context, BOB, { capacity: 4 })
        const writer = await waiter(context, 'writer', { weight: 4, capacity: 4 })
        const reader = await waiter(context, 'reader', { capacity: 4 })
        const third = await waiter(context, 'third', { capacity: 4 })
        await releaseAndClose(context, share(context, ALICE), ALICE)
        same(vacancies(context, await writer.after()), [], 'what the first has heard while it does not fit')
        same(vacancies(context, await reader.after()), [], 'what the second has heard')
        await releaseAndClose(context, share(context, BOB), BOB)
        await hears(context, writer, 0)
        await hears(context, reader, 1)
        same(vacancies(context, await third.after()), [], 'what the third has heard')
      },
      'shares',
      'addressed',
    )

    clause(
      'a grant that leaves room notifies the next in the queue, and so does a larger capacity',
      async (context) => {
        const first = await define(context, 1, undefined)
        await claim(context, ALICE, {})
        const [bob, carol, dave] = [
          await waiter(context, BOB, {}),
          await waiter(context, CAROL, {}),
          await waiter(context, 'dave', {}),
        ]
        await define(context, 3, first)
        await hears(context, bob, 0)
        await claim(context, BOB, {}, { client: bob.client, ticket: bob.ticket })
        await hears(context, carol, 0)
        await hears(context, dave, 1)
        await claim(context, CAROL, {}, { client: carol.client, ticket: carol.ticket })
        // On a slow machine carol may have been passed over meanwhile, and dave called in its place.
        if (context.realTime) return
        const last = vacancies(context, await dave.after())
        same(
          last.filter(({ ahead }) => ahead === 0).length,
          0,
          'how often the last was called, for whom there is no room',
        )
      },
      'shares',
      'addressed',
    )

    clause(
      'all who wait are notified when there is nothing any more to wait for',
      async (context) => {
        const first = await define(context, 1, undefined)
        await claim(context, ALICE, {})
        const waiters: Waiter[] = []
        for (const holder of [BOB, CAROL, 'dave']) waiters.push(await waiter(context, holder, {}))
        await define(context, undefined, first)
        for (const each of waiters) await hears(context, each, 0)
        // And they are in nobody's way if they do not come.
        await define(context, 2, undefined)
        await claim(context, 'eve', {})
      },
      'shares',
      'addressed',
    )

    clause(
      'the refusal of one who does not wait notifies the first in the queue, if there is room for it',
      async (context) => {
        await claim(context, ALICE, { capacity: 1 })
        const bob = await waiter(context, BOB, { capacity: 1 })
        await vacate(context, ALICE)
        await hears(context, bob, 0)
        const before = vacancies(context, await bob.after()).length
        await refused(context, CAROL, { capacity: 1 })
        await context.until(
          'another call of the first',
          () => vacancies(context, bob.heard).length > before || bob.heard,
        )
      },
      'shares',
      'addressed',
    )

    clause(
      'one who comes to wait has those passed over who were notified before it and do not come',
      async (context) => {
        await claim(context, ALICE, { capacity: 1 })
        await enter(context, BOB, { capacity: 1 })
        await vacate(context, ALICE)
        const carol = await waiter(context, CAROL, { capacity: 1 })
        same(carol.ticket.ahead, 1, 'how many are ahead')
        await hears(context, carol, 0)
        await claim(context, CAROL, { capacity: 1 }, { client: carol.client, ticket: carol.ticket })
      },
      'shares',
      'addressed',
    )

    clause(
      'one who looks again, and meets nothing but those ahead, has them notified anew, and passed over if they do not come',
      async (context) => {
        for (const holder of [ALICE, 'eve']) await claim(context, holder, { capacity: 2 })
        const bob = await waiter(context, BOB, { capacity: 2 })
        const carol = await waiter(context, CAROL, { capacity: 2 })
        await vacate(context, ALICE)
        await hears(context, bob, 0)
        await hears(context, carol, 1)
        const before = vacancies(context, await bob.after()).length
        await refused(context, CAROL, { capacity: 2 }, { client: carol.client, ticket: carol.ticket })
        await context.until(
          'another call of the first',
          () => vacancies(context, bob.heard).length > before || bob.heard,
        )
        await hears(context, carol, 0)
        await claim(context, CAROL, { capacity: 2 }, { client: carol.client, ticket: carol.ticket })
      },
      'shares',
      'addressed',
    )

    clause(
      'who waits is notified when the capacity falls below its weight, and is out of the way of those behind',
      async (context) => {
        const first = await define(context, 4, undefined)
        await claim(context, ALICE, {})
        const bob = await waiter(context, BOB, { weight: 4 })
        const carol = await waiter(context, CAROL, {})
        await define(context, 2, first)
        await hears(context, bob, 0)
        await hears(context, carol, 0)
        await claim(context, CAROL, {}, { client: carol.client, ticket: carol.ticket })
      },
      'shares',
      'addressed',
    )

    clause(
      'who waits is notified once there is room for what it asked for last',
      async (context) => {
        await claim(context, ALICE, { capacity: 2 })
        await claim(context, BOB, { capacity: 2 })
        const carol = await waiter(context, CAROL, { weight: 2, capacity: 2 })
        await refused(context, 'dave', { capacity: 2 }, { client: carol.client, ticket: carol.ticket })
        await context.b.releaseLease(share(context, ALICE), ALICE)
        await hears(context, carol, 0)
      },
      'shares',
      'addressed',
    )

    clause(
      'the holder of a share is notified when another ends it, and those who watch it',
      async (context) => {
        const { a } = context
        const holder = await context.hearer()
        const watcher = await context.hearer()
        await claim(context, BOB, { capacity: 1 }, { client: holder.client })
        await watcher.client.refresh([share(context, BOB)], { watcher: context })
        await a.refresh([share(context, BOB)])
        await a.releaseLease(share(context, BOB), BOB, { term: termOf(known(a, share(context, BOB))) })
        for (const { heard } of [holder, watcher]) {
          await context.until(
            'word of the end',
            () => heard.some((it) => it.kind === 'vacated' && it.lease === share(context, BOB)) || heard,
          )
        }
      },
      'shares',
      'addressed',
    )

    // ── late packets ──────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a definition that comes late does not undo a later one',
      async (context) => {
        const first = await define(context, 3, undefined)
        const { client, faults } = await context.openFaulty()
        const packets = faults.holdBack(1)
        const given = new AbortController()
        const giving = later(countedOf(client).define(countedName(context.lease), { capacity: 9, from: first }, given))
        await context.until('a packet under way', () => packets.count >= 1)
        given.abort(new Error('given up'))
        await giving.catch(() => {})
        await context.until('a definition beside it', async () => {
          return (await outcomeOf(define(context, 5, first).then(() => {}))) === 'granted'
        })
        await packets.letGo()
        same((await read(context)).capacity, 5, 'the capacity')
      },
      'shares',
      'faults',
    )

    clause(
      'a first definition that was sent twice does not define again what is not defined any more',
      async (context) => {
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        const counted = countedOf(client)
        const name = countedName(context.lease)
        const first = await context.settle(counted.define(name, { capacity: 3, from: undefined }), 'the definition')
        faults.heal()
        await define(context, undefined, first)
        await packets.letGo()
        same((await read(context)).capacity, undefined, 'the capacity')
      },
      'shares',
      'faults',
      'repeats',
    )

    clause(
      'a definition whose reply is lost takes effect, and is never refused',
      async (context) => {
        const { client, faults } = await context.openFaulty()
        const name = countedName(context.lease)
        const counted = countedOf(client)
        faults.loseReplies(1)
        const first = await context.settle(counted.define(name, { capacity: 3, from: undefined }), 'the definition')
        faults.loseReplies(1)
        const second = await context.settle(counted.define(name, { capacity: 4, from: first }), 'the second definition')
        same((await read(context)).generation, second, 'the generation')
        faults.loseReplies(1)
        const end = context.settle(counted.define(name, { capacity: undefined, from: second }), 'the end')
        // A store that keeps no trace of what is not defined may not know.
        await end.catch((error: unknown) => same(codeOf(error), 'LEASE_UNKNOWN', 'what became of it'))
        same((await read(context)).generation, undefined, 'the generation')
      },
      'shares',
      'faults',
    )

    clause(
      'a first definition whose replies are lost is not made again once another has ended it',
      async (context) => {
        const { client, faults } = await context.openFaulty()
        const name = countedName(context.lease)
        faults.loseReplies()
        const defining = later(countedOf(client).define(name, { capacity: 3, from: undefined }))
        await context.until('the definition', async () => (await read(context)).capacity === 3)
        await define(context, undefined, (await read(context)).generation)
        faults.heal()
        const outcome = await context.settle(
          defining.then(() => 'granted', codeOf),
          'what became of it',
        )
        same(outcome, 'LEASE_UNKNOWN', 'what became of it')
        same((await read(context)).capacity, undefined, 'the capacity')
      },
      'shares',
      'faults',
    )

    clause(
      'a claim of a share that comes late takes no room',
      (context) =>
        hasty(context, async ({ client, faults }) => {
          await define(context, 1, undefined)
          const packets = faults.holdBack(1)
          const claiming = later(claim(context, ALICE, {}, { client }))
          await context.until('a packet under way', () => packets.count >= 1)
          await context.settle(claiming, 'the second packet')
          await client.releaseLease(share(context, ALICE), ALICE)
          await packets.letGo()
          await soon(context, BOB, {}, context.b)
          await holders(context, BOB)
        }),
      'shares',
      'faults',
    )

    clause(
      'a claim whose reply is lost is granted once',
      async (context) => {
        await define(context, 2, undefined)
        const { client, faults } = await context.openFaulty()
        faults.loseReplies(1)
        await context.settle(claim(context, ALICE, {}, { client }), 'the claim')
        faults.heal()
        await holders(context, ALICE)
        await claim(context, BOB, {})
        await refused(context, CAROL, {})
      },
      'shares',
      'faults',
    )

    // ── guards ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'the guard of a share passes while it stands, and not afterwards, whatever other shares do',
      async (context) => {
        const { a, b, guard } = context
        await claim(context, ALICE, { capacity: 2 }, { client: a })
        const { trapdoor } = known(a, share(context, ALICE))
        const text = `${context.lease} of alice`
        await guard.write(trapdoor, text)
        await claim(context, BOB, { capacity: 2 })
        await b.releaseLease(share(context, BOB), BOB)
        await guard.write(trapdoor, `${text} again`)
        await a.releaseLease(share(context, ALICE), ALICE)
        await rejects('LEASE_NOT_HELD', guard.write(trapdoor, `${text} too late`), 'a write after the release')
        await claim(context, ALICE, { capacity: 2 }, { client: a })
        await rejects('LEASE_NOT_HELD', guard.write(trapdoor, `${text} of a later term`), 'a write of the term before')
        const written = (await guard.written()).filter((each) => each.startsWith(text))
        same(written, [text, `${text} again`], 'what was written')
      },
      'shares',
      'guard',
    )

    // ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a share is claimed as one, by its holder, and everything else is refused as such',
      async (context) => {
        const { b, lease, longMs: duration } = context
        const sound = { holder: ALICE, duration, share: { weight: 1, capacity: 1 } }
        for (const [name, request] of [
          [share(context, ALICE), { holder: ALICE, duration }],
          [share(context, BOB), sound],
          [lease, sound],
          [`${lease}#`, sound],
          [`#${ALICE}`, sound],
          [`${lease}#${ALICE}#b`, { ...sound, holder: `${ALICE}#b` }],
          [share(context, ALICE), { ...sound, share: { weight: 2, capacity: 1 } }],
          ...[0, -1, 0.5, Number.NaN, 2 ** 30 + 1].flatMap((bad) => [
            [share(context, ALICE), { ...sound, share: { weight: bad, capacity: 1 } }] as const,
            [share(context, ALICE), { ...sound, share: { weight: 1, capacity: bad } }] as const,
          ]),
        ] as const) {
          await rejects('LEASE_NOT_VALID', b.claimLease(name, request), `a claim of ${name}`)
        }
        same((await read(context)).shares.size, 0, 'how many shares stand')
      },
      'shares',
    )
  },
}

function share({ lease }: Context, holder: string): string {
  return shareName(lease, holder)
}

interface ClaimOptions {
  readonly client?: Client
  readonly name?: string
  readonly duration?: number
  readonly ticket?: Ticket
  readonly maxWaiters?: number
  readonly onRefused?: (refusal: ShareRefusal) => void
}

async function claim(
  { b, lease, longMs }: Context,
  holder: string,
  { weight = 1, capacity, ahead }: Partial<ShareRequest>,
  { client = b, name = lease, duration = longMs, ticket, maxWaiters, onRefused }: ClaimOptions = {},
): Promise<void> {
  const request = { holder, duration, share: { weight, capacity, ahead } }
  await client.claimLease(shareName(name, holder), request, { ticket, maxWaiters, onRefused })
}

/** The claim is refused by the counted lease. @param options.isOver the shares in the way may have lapsed by now: nothing is demanded */
async function refused(
  context: Context,
  holder: string,
  request: Partial<ShareRequest>,
  options: ClaimOptions & { readonly isOver?: boolean } = {},
): Promise<ShareRefusal> {
  const refusals: ShareRefusal[] = []
  const claiming = claim(context, holder, request, { ...options, onRefused: (refusal) => refusals.push(refusal) })
  if (options.isOver === true) {
    if ((await outcomeOf(claiming)) === 'granted')
      await (options.client ?? context.b).releaseLease(share(context, holder), holder)
    return refusals[0] ?? { capacity: undefined, blocking: undefined }
  }
  await invalid(claiming, `a claim of a share by ${holder}`)
  const [refusal] = refusals
  assert(refusal !== undefined, 'it was not the counted lease that refused the claim')
  return refusal
}

/** Claims as soon as there is room. */
async function soon(context: Context, holder: string, request: Partial<ShareRequest>, client: Client): Promise<void> {
  await countedOf(client).read(countedName(context.lease))
  await context.until(`a share for ${holder}`, async () => {
    const outcome = await outcomeOf(claim(context, holder, request, { client }))
    return outcome === 'granted' || outcome
  })
}

function countedOf({ counted }: Client): CountedClient {
  assert(counted !== undefined, 'the client keeps no counted leases')
  return counted
}

function read({ a, lease }: Context, name: string = lease): Promise<CountedInfo> {
  return countedOf(a).read(countedName(name))
}

function define(
  { a, lease }: Context,
  capacity: number | undefined,
  from: string | undefined,
  client: Client = a,
): Promise<string> {
  return countedOf(client).define(countedName(lease), { capacity, from })
}

async function holders(context: Context, ...expected: readonly string[]): Promise<void> {
  const { shares } = await read(context)
  same([...shares.keys()].toSorted(), expected.map((holder) => share(context, holder)).toSorted(), 'the shares')
}

async function open(context: Context, count: number): Promise<Client[]> {
  const clients: Client[] = []
  for (let index = 0; index < count; index++) clients.push(await context.open())
  return clients
}

async function outcomeOf(claiming: Promise<unknown>): Promise<'granted' | 'refused'> {
  try {
    await claiming
    return 'granted'
  } catch (error) {
    if (codeOf(error) === 'LEASE_INVALID') return 'refused'
    throw error
  }
}

/** One who waits claims in vain, and so gets into the queue. */
async function enter(
  context: Context,
  holder: string,
  request: Partial<ShareRequest>,
  options: ClaimOptions = {},
): Promise<Ticket> {
  const ticket = noTicket()
  await refused(context, holder, request, { ...options, ticket })
  assert(ticket.place > 0, 'the refusal gave no ticket')
  return ticket
}

/** Releases the share, and is gone: nobody sees to it that those who were notified come. */
async function vacate(context: Context, holder: string): Promise<void> {
  const client = await context.open()
  await client.refresh([share(context, holder)])
  await client.releaseLease(share(context, holder), holder)
  await client.close()
}

/** One who waits for a share, in a process of its own. */
interface Waiter extends Hearer {
  readonly ticket: Ticket
}

async function waiter(context: Context, holder: string, request: Partial<ShareRequest>): Promise<Waiter> {
  const hearer = await context.hearer()
  return { ...hearer, ticket: await enter(context, holder, request, { client: hearer.client }) }
}

function vacancies(
  { lease }: Context,
  heard: readonly object[],
): readonly { readonly place: number; readonly ahead: number }[] {
  return heard.flatMap((change) => {
    const { kind, lease: name, to } = change as { kind: string; lease?: string; to?: { place: number; ahead: number } }
    return kind === 'vacated' && name === countedName(lease) && to !== undefined ? [to] : []
  })
}

async function hears(context: Context, { ticket, heard }: Waiter, ahead: number): Promise<void> {
  const { place } = ticket
  await context.until(
    'the call',
    () => vacancies(context, heard).some((to) => to.place === place && to.ahead === ahead) || heard,
  )
}
