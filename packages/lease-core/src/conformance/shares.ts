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
  rises,
  same,
  termOf,
  type Chapter,
  type Hearer,
  type Scene,
} from './kit.ts'

/** A share is a lease whose claim a counted lease decides: the weights of those that stand never exceed its capacity (`share.ts`). */
export const shares: Chapter = {
  title: 'shares',
  state(clause) {
    // ── capacity ──────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'shares are granted up to the capacity, and the next one is refused',
      async (scene) => {
        const { a, b } = scene
        await claim(scene, ALICE, { capacity: 2 }, { client: a })
        await claim(scene, BOB, { capacity: 2 }, { client: b })
        const refusal = await refused(scene, CAROL, { capacity: 2 })
        same(refusal.capacity, 2, 'the capacity that the refusal shows')
        assert(refusal.blocking !== undefined, 'the refusal shows no share that is in the way')
        await holders(scene, ALICE, BOB)
      },
      'shares',
    )

    clause(
      'the weights of all shares count, and one that does not fit is refused although there is room for less',
      async (scene) => {
        await claim(scene, ALICE, { weight: 3, capacity: 5 })
        await refused(scene, BOB, { weight: 3, capacity: 5 })
        await claim(scene, CAROL, { weight: 2, capacity: 5 })
        await refused(scene, BOB, { weight: 1, capacity: 5 })
        const { shares } = await read(scene)
        const weights = [...shares].map(([share, { weight }]) => [share, weight])
        same(
          new Map(weights as [string, number][]),
          new Map([
            [share(scene, ALICE), 3],
            [share(scene, CAROL), 2],
          ]),
          'the weights',
        )
      },
      'shares',
    )

    clause(
      'one share may take the whole capacity, however large, and keeps out all others until it ends',
      async (scene) => {
        const capacity = 2 ** 30
        await claim(scene, ALICE, { weight: capacity, capacity })
        await refused(scene, BOB, { capacity })
        await scene.a.releaseLease(share(scene, ALICE), ALICE)
        for (const holder of [BOB, CAROL]) await claim(scene, holder, { capacity })
        await refused(scene, ALICE, { weight: capacity, capacity })
        await refused(scene, ALICE, { weight: capacity - 1, capacity })
        await claim(scene, ALICE, { weight: capacity - 2, capacity })
      },
      'shares',
    )

    clause(
      'what a release, a revocation or the end of its time frees is granted to the next',
      async (scene) => {
        const { a, b, longMs } = scene
        const live = await scene.whileLive(scene.unitMs, async (_, duration) => {
          await claim(scene, ALICE, { capacity: 1 }, { duration })
          return known(b, share(scene, ALICE))
        })
        await refused(scene, BOB, { capacity: 1 }, { client: a, isOver: true })
        await scene.lapse(share(scene, ALICE), live.durationMs, a)
        await soon(scene, BOB, { capacity: 1 }, a)
        rises(live.outcome.fencingToken, known(a, share(scene, BOB)).fencingToken)
        await a.releaseLease(share(scene, BOB), BOB)
        await claim(scene, CAROL, { capacity: 1 }, { duration: longMs })
        await a.refresh([share(scene, CAROL)])
        await a.releaseLease(share(scene, CAROL), CAROL, { term: termOf(known(a, share(scene, CAROL))) })
        await claim(scene, ALICE, { capacity: 1 })
        await holders(scene, ALICE)
      },
      'shares',
    )

    clause(
      "a share whose time is over is in nobody's way, also when its holder was refused another since",
      async (scene) => {
        const { a, unitMs } = scene
        const live = await scene.whileLive(unitMs, async (_, duration) => {
          await claim(scene, ALICE, { capacity: 3 }, { duration, client: a })
        })
        await claim(scene, BOB, { weight: 2, capacity: 3 }, { client: a })
        await scene.lapse(share(scene, ALICE), live.durationMs, a)
        await scene.until('refusal by the counted lease', async () => {
          const refusals: ShareRefusal[] = []
          const onRefused = (refusal: ShareRefusal): void => void refusals.push(refusal)
          const claiming = claim(scene, ALICE, { weight: 2, capacity: 3 }, { client: a, onRefused })
          return ((await outcomeOf(claiming)) === 'refused' && refusals.length > 0) || refusals
        })
        await claim(scene, CAROL, { capacity: 3 }, { client: a })
        await holders(scene, BOB, CAROL)
      },
      'shares',
    )

    clause(
      'a share that is extended goes on counting, and one that is pinned counts when its time is over',
      async (scene) => {
        const { a, b, unitMs } = scene
        let durationMs = unitMs
        await scene.undisturbed(unitMs, async (_, duration) => {
          durationMs = duration
          await a.pinLease(share(scene, ALICE), 'operator')
          await claim(scene, ALICE, { capacity: 2 }, { duration, client: b })
          await scene.inTime(duration, async () => {
            await claim(scene, BOB, { capacity: 2 }, { duration, client: b })
            await b.extendLease(share(scene, BOB), { holder: BOB, duration: scene.longMs })
          })
        })
        await scene.lapse(share(scene, ALICE), durationMs, a, b)
        await refused(scene, CAROL, { capacity: 2 })
        await holders(scene, ALICE, BOB)
        await a.unpinLease(share(scene, ALICE), 'operator')
        await soon(scene, CAROL, { capacity: 2 }, b)
        await a.refresh([share(scene, ALICE)])
        await holders(scene, BOB, CAROL)
      },
      'shares',
    )

    clause(
      'a share counts that was extended or pinned where another saw it last before that, however long ago',
      async (scene) => {
        const { a, unitMs, longMs } = scene
        const { durationMs } = await scene.whileLive(unitMs, async (_, duration) => {
          await claim(scene, ALICE, { capacity: 2 }, { duration, client: a })
          await claim(scene, BOB, { capacity: 2 }, { duration, client: a })
          await refused(scene, CAROL, { capacity: 2 })
          await a.extendLease(share(scene, ALICE), { holder: ALICE, duration: longMs })
          await a.pinLease(share(scene, BOB), 'operator')
        })
        await scene.lapse(share(scene, ALICE), durationMs)
        await refused(scene, CAROL, { capacity: 2 })
        await holders(scene, ALICE, BOB)
        await a.unpinLease(share(scene, BOB), 'operator')
      },
      'shares',
    )

    clause(
      'of many that claim at once as many are granted as the capacity allows',
      async (scene) => {
        const clients = await open(scene, 6)
        for (let round = 0; round < 5; round++) {
          const name = `${scene.lease}-${round}`
          const outcomes = await Promise.all(
            Array.from({ length: 12 }, (_, index) =>
              outcomeOf(claim(scene, `h${index}`, { capacity: 3 }, { name, client: clients[index % 6] as Client })),
            ),
          )
          same(outcomes.filter((outcome) => outcome === 'granted').length, 3, 'how many were granted')
          same((await read(scene, name)).shares.size, 3, 'how many shares stand')
        }
      },
      'shares',
      'alone',
    )

    clause(
      'shares that come and go at once never exceed the capacity',
      async (scene) => {
        const clients = await open(scene, 5)
        let weight = 0
        let most = 0
        const work = async (client: Client, index: number): Promise<void> => {
          const own = 1 + (index % 3)
          for (let turn = 0; turn < 12; turn++) {
            if ((await outcomeOf(claim(scene, `h${index}`, { weight: own, capacity: 4 }, { client }))) === 'refused')
              continue
            most = Math.max(most, (weight += own))
            await Promise.resolve()
            weight -= own
            await client.releaseLease(share(scene, `h${index}`), `h${index}`)
          }
        }
        await Promise.all(clients.map(work))
        assert(most >= 1 && most <= 4, `the weights came to ${most}`)
        same((await read(scene)).shares.size, 0, 'how many shares stand in the end')
      },
      'shares',
      'alone',
    )

    // ── one share for each holder ─────────────────────────────────────────────────────────────────────────────────

    clause(
      'a holder has one share, however many of its claims run at once, and extends it like every lease',
      async (scene) => {
        const clients = await open(scene, 5)
        for (let round = 0; round < 4; round++) {
          const name = `${scene.lease}-${round}`
          const claims = clients.map((client) => outcomeOf(claim(scene, ALICE, { capacity: 4 }, { name, client })))
          const outcomes = await Promise.all(claims)
          same(outcomes.filter((outcome) => outcome === 'granted').length, 1, 'how many were granted')
          const { shares } = await read(scene, name)
          same([...shares.keys()], [shareName(name, ALICE)], 'the shares')
        }
        const [client] = clients as [Client]
        const name = `${scene.lease}-0`
        await client.refresh([shareName(name, ALICE)])
        const { fencingToken } = known(client, shareName(name, ALICE))
        await client.extendLease(shareName(name, ALICE), { holder: ALICE, duration: scene.longMs })
        same(known(client, shareName(name, ALICE)).fencingToken, fencingToken, 'the fencing token')
      },
      'shares',
      'alone',
    )

    clause(
      'a claim by a holder that has its share is refused for that, and gets no ticket',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 1 }, { client: scene.a })
        const ticket = noTicket()
        let refusals = 0
        await invalid(
          claim(scene, ALICE, { capacity: 1 }, { ticket, onRefused: () => refusals++ }),
          'a second claim of the holder',
        )
        same([ticket.place, refusals], [0, 0], 'the ticket, and how often the counted lease refused it')
        same(known(scene.b, share(scene, ALICE)).holder, ALICE, 'the holder')
        await scene.a.releaseLease(share(scene, ALICE), ALICE)
        await claim(scene, BOB, { capacity: 1 })
      },
      'shares',
      'queues',
    )

    clause(
      'each share is released for itself, keeps its value, and is read like every lease',
      async (scene) => {
        const { a, b, longMs } = scene
        const request = { holder: ALICE, duration: longMs, value: 'of alice', share: { weight: 1, capacity: 3 } }
        await a.claimLease(share(scene, ALICE), request)
        await claim(scene, BOB, { capacity: 3 })
        await b.refresh([share(scene, ALICE), scene.lease])
        const { value, weight } = known(b, share(scene, ALICE))
        same([value, weight], ['of alice', 1], 'value and weight')
        same(b.leases().get(scene.lease), undefined, 'the lease of the same name')
        await a.releaseLease(share(scene, ALICE), ALICE)
        await holders(scene, BOB)
        await invalid(a.releaseLease(share(scene, BOB), ALICE), "a release of another's share")
        await holders(scene, BOB)
      },
      'shares',
    )

    clause(
      'a lease and a counted lease of one name have nothing to do with each other',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await claim(scene, ALICE, { capacity: 1 })
        await a.claimLease(lease, { holder: BOB, duration: longMs })
        const waiting = await enter(scene, CAROL, { capacity: 1 })
        const ofLease = noTicket()
        await invalid(b.claimLease(lease, { holder: CAROL, duration: longMs }, { ticket: ofLease }), 'the lease')
        same([waiting.ahead, ofLease.ahead], [0, 0], 'how many are ahead in the two queues')
        await a.releaseLease(lease, BOB)
        await b.claimLease(lease, { holder: CAROL, duration: longMs }, { ticket: ofLease })
        await holders(scene, ALICE)
      },
      'shares',
      'queues',
    )

    clause(
      'namespaces have nothing to do with each other',
      async (scene) => {
        const elsewhere = await scene.openElsewhere()
        await claim(scene, ALICE, { capacity: 1 })
        await claim(scene, BOB, { capacity: 5 }, { client: elsewhere })
        same((await countedOf(elsewhere).read(countedName(scene.lease))).capacity, 5, 'the capacity elsewhere')
        await holders(scene, ALICE)
      },
      'shares',
    )

    clause(
      'fencing tokens rise over all shares of a counted lease',
      async (scene) => {
        const clients = [scene.a, scene.b, await scene.open()]
        let before = -1n
        for (let turn = 0; turn < 12; turn++) {
          const client = clients[turn % 3] as Client
          const holder = `h${turn % 5}`
          if (turn >= 5) await client.refresh([share(scene, holder)])
          if (turn >= 5) await client.releaseLease(share(scene, holder), holder)
          await claim(scene, holder, { capacity: 5 }, { client })
          const { fencingToken } = known(client, share(scene, holder))
          rises(before, fencingToken)
          before = fencingToken
        }
      },
      'shares',
    )

    // ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim without a capacity is refused while the counted lease is not defined, and one with another capacity while it is',
      async (scene) => {
        const undefinedOne = await refused(scene, ALICE, {})
        same(undefinedOne.capacity, undefined, 'the capacity')
        await claim(scene, ALICE, { capacity: 2 })
        same((await refused(scene, BOB, { capacity: 3 })).capacity, 2, 'the capacity')
        await claim(scene, BOB, {})
        same((await read(scene)).capacity, 2, 'the capacity that is read')
        await holders(scene, ALICE, BOB)
      },
      'shares',
    )

    clause(
      'a definition changes the capacity for all later grants, and takes no share away',
      async (scene) => {
        const first = await define(scene, 3, undefined)
        for (const holder of [ALICE, BOB, CAROL]) await claim(scene, holder, {})
        const second = await define(scene, 1, first)
        await holders(scene, ALICE, BOB, CAROL)
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await scene.b.releaseLease(share(scene, BOB), BOB)
        await refused(scene, ALICE, {})
        await scene.b.releaseLease(share(scene, CAROL), CAROL)
        await claim(scene, ALICE, {})
        await refused(scene, BOB, {})
        await define(scene, 2, second)
        await claim(scene, BOB, {})
      },
      'shares',
    )

    clause(
      'a definition is refused unless the caller has seen the latest one',
      async (scene) => {
        const first = await define(scene, 3, undefined)
        const again = await invalid(define(scene, 5, undefined, scene.a), 'a second first definition')
        same((again as ErrInvalid).lease, countedName(scene.lease), 'which one the error names')
        const second = await define(scene, 4, first, scene.b)
        assert(first !== second, 'two definitions have one generation')
        await invalid(define(scene, 5, first, scene.a), 'a definition over one that was not seen')
        same(await read(scene).then(({ capacity, generation }) => [capacity, generation]), [4, second], 'what is read')
        const races = [6, 7, 8].map((capacity) => outcomeOf(define(scene, capacity, second, scene.a).then(() => {})))
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
      async (scene) => {
        const first = await define(scene, 2, undefined)
        await claim(scene, ALICE, {})
        await define(scene, undefined, first)
        same((await refused(scene, BOB, {})).capacity, undefined, 'the capacity')
        same((await read(scene)).generation, undefined, 'the generation')
        await holders(scene, ALICE)
        await invalid(define(scene, 9, first), 'a definition over one that is gone')
        await define(scene, 1, undefined)
        await refused(scene, BOB, {})
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await claim(scene, BOB, {})
      },
      'shares',
    )

    // ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim that does not wait is refused while others do, though there is room',
      async (scene) => {
        await claim(scene, ALICE, { weight: 1, capacity: 2 })
        const bob = await enter(scene, BOB, { weight: 2, capacity: 2 })
        await refused(scene, CAROL, { capacity: 2 })
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await refused(scene, CAROL, { capacity: 2 })
        await claim(scene, BOB, { weight: 2, capacity: 2 }, { ticket: bob })
        await holders(scene, BOB)
      },
      'shares',
      'queues',
    )

    clause(
      'who waits is served in the order of the tickets, whatever the weights',
      async (scene) => {
        await claim(scene, ALICE, { weight: 4, capacity: 4 })
        const bob = await enter(scene, BOB, { weight: 4, capacity: 4 })
        const carol = await enter(scene, CAROL, { capacity: 4 })
        same([bob.ahead, carol.ahead], [0, 1], 'how many are ahead')
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await refused(scene, CAROL, { capacity: 4 }, { ticket: carol })
        same(carol.ahead, 1, 'how many are ahead still')
        await claim(scene, BOB, { weight: 4, capacity: 4 }, { ticket: bob })
        await scene.b.releaseLease(share(scene, BOB), BOB)
        await claim(scene, CAROL, { capacity: 4 }, { ticket: carol })
        await holders(scene, CAROL)
      },
      'shares',
      'queues',
    )

    clause(
      'who waits passes those ahead who had their turn and did not come, and they leave the queue',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 1 })
        const bob = await enter(scene, BOB, { capacity: 1 })
        const carol = await enter(scene, CAROL, { capacity: 1 })
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await claim(scene, CAROL, { capacity: 1 }, { ticket: { ...carol, passing: 1 } })
        const dave = await enter(scene, 'dave', { capacity: 1 })
        same(dave.ahead, 0, 'how many are ahead of one who comes then')
        const { place } = bob
        await refused(scene, BOB, { capacity: 1 }, { ticket: bob })
        same([bob.place, bob.ahead], [place, 0], 'the ticket of the one who was passed')
      },
      'shares',
      'queues',
    )

    clause(
      'a claim that goes ahead passes all who wait, if there is room for each of them, and those that were not called stay',
      async (scene) => {
        const { b } = scene
        await claim(scene, ALICE, { capacity: 2 })
        await claim(scene, BOB, { capacity: 2 })
        const tickets = [await enter(scene, 'w1', { capacity: 2 }), await enter(scene, 'w2', { capacity: 2 })]
        tickets.push(await enter(scene, 'w3', { capacity: 2 }))
        await refused(scene, CAROL, { capacity: 2, ahead: true })
        await b.releaseLease(share(scene, ALICE), ALICE)
        await claim(scene, CAROL, { capacity: 2, ahead: true })
        await holders(scene, BOB, CAROL)
        await b.releaseLease(share(scene, BOB), BOB)
        await claim(scene, 'w3', { capacity: 2 }, { ticket: { ...(tickets[2] as Ticket), passing: 2 } })
        await holders(scene, CAROL, 'w3')
      },
      'shares',
      'queues',
    )

    clause(
      'nobody passes one ahead for whom there was no room',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 4 })
        const bob = await enter(scene, BOB, { weight: 4, capacity: 4 })
        const carol = await enter(scene, CAROL, { capacity: 4 })
        await refused(scene, CAROL, { capacity: 4 }, { ticket: { ...carol, passing: 1 } })
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await claim(scene, BOB, { weight: 4, capacity: 4 }, { ticket: bob })
        await holders(scene, BOB)
      },
      'shares',
      'queues',
    )

    clause(
      'who waits passes a heavier one ahead that had its turn, when the share in the way of that one has lapsed',
      async (scene) => {
        const { a, unitMs } = scene
        const live = await scene.whileLive(unitMs, async (_, duration) => {
          await claim(scene, ALICE, { capacity: 2 }, { duration })
          await enter(scene, BOB, { weight: 2, capacity: 2 })
          return await enter(scene, CAROL, { capacity: 2 }, { client: a })
        })
        await scene.lapse(share(scene, ALICE), live.durationMs, a)
        await claim(scene, CAROL, { capacity: 2 }, { client: a, ticket: { ...live.outcome, passing: 1 } })
        await holders(scene, CAROL)
      },
      'shares',
      'queues',
    )

    clause(
      'what no wait makes a claim that is granted gets no ticket',
      async (scene) => {
        const ticket = noTicket()
        await refused(scene, ALICE, {}, { ticket })
        await define(scene, 2, undefined)
        await refused(scene, ALICE, { weight: 3 }, { ticket })
        await refused(scene, ALICE, { capacity: 3 }, { ticket })
        same(ticket.place, 0, 'the ticket')
        await claim(scene, BOB, {}, { ticket: noTicket() })
      },
      'shares',
      'queues',
    )

    clause(
      'one who leaves the queue keeps nobody out any more',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 4 })
        const bob = await enter(scene, BOB, { weight: 4, capacity: 4 })
        await refused(scene, CAROL, { capacity: 4 })
        scene.b.leaveQueue?.(countedName(scene.lease), bob)
        await scene.until('room for one who comes then', async () => {
          return (await outcomeOf(claim(scene, CAROL, { capacity: 4 }))) === 'granted'
        })
      },
      'shares',
      'queues',
    )

    clause(
      'who waits counts with the weight that it asked for last',
      async (scene) => {
        for (const holder of [ALICE, BOB]) await claim(scene, holder, { capacity: 2 })
        const carol = await enter(scene, CAROL, { weight: 2, capacity: 2 })
        const eve = await enter(scene, 'eve', { capacity: 2 })
        // Another of the same process goes on with the ticket, and asks for less.
        await refused(scene, 'dave', { capacity: 2 }, { ticket: carol })
        await scene.b.releaseLease(share(scene, BOB), BOB)
        await claim(scene, 'eve', { capacity: 2 }, { ticket: { ...eve, passing: 1 } })
        await holders(scene, ALICE, 'eve')
      },
      'shares',
      'queues',
    )

    clause(
      'where too many wait already the next one gets no ticket, unless there is room',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 1 })
        await enter(scene, BOB, { capacity: 1 })
        const ticket = noTicket()
        await refused(scene, CAROL, { capacity: 1 }, { ticket, maxWaiters: 1 })
        same([ticket.place, ticket.isFull], [0, true], 'the ticket')
        await enter(scene, CAROL, { capacity: 1 }, { maxWaiters: 2 })
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await enter(scene, 'dave', { capacity: 1 }, { maxWaiters: 1 })
      },
      'shares',
      'queues',
    )

    clause(
      'who waits knows which of the shares in the way lapses first, until it leaves',
      async (scene) => {
        const { b, lease, longMs } = scene
        const name = countedName(lease)
        await claim(scene, ALICE, { capacity: 3 })
        await claim(scene, BOB, { capacity: 3 }, { duration: longMs / 2 })
        await claim(scene, CAROL, { capacity: 3 })
        await refused(scene, 'dave', { capacity: 3 })
        same(countedOf(b).blocking(name), undefined, 'what one knows that does not wait')
        const ticket = await enter(scene, 'dave', { capacity: 3 })
        same(countedOf(b).blocking(name)?.holder, BOB, 'whose share lapses first')
        await countedOf(b).read(name)
        same(countedOf(b).blocking(name)?.holder, BOB, 'whose share lapses first by a read of all')
        await b.releaseLease(share(scene, BOB), BOB)
        same(countedOf(b).blocking(name), undefined, 'what is in the way when one of the shares is over')
        b.leaveQueue?.(name, ticket)
      },
      'shares',
      'queues',
    )

    // ── who is notified ───────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a release notifies the first in the queue once there is room for it, and nobody before',
      async (scene) => {
        const { b } = scene
        await claim(scene, ALICE, { capacity: 4 })
        await claim(scene, BOB, { capacity: 4 })
        const writer = await waiter(scene, 'writer', { weight: 4, capacity: 4 })
        const reader = await waiter(scene, 'reader', { capacity: 4 })
        const third = await waiter(scene, 'third', { capacity: 4 })
        await b.releaseLease(share(scene, ALICE), ALICE)
        same(vacancies(scene, await writer.after()), [], 'what the first has heard while it does not fit')
        same(vacancies(scene, await reader.after()), [], 'what the second has heard')
        await b.releaseLease(share(scene, BOB), BOB)
        await hears(scene, writer, 0)
        await hears(scene, reader, 1)
        same(vacancies(scene, await third.after()), [], 'what the third has heard')
      },
      'shares',
      'addressed',
    )

    clause(
      'a grant that leaves room notifies the next in the queue, and so does a larger capacity',
      async (scene) => {
        const first = await define(scene, 1, undefined)
        await claim(scene, ALICE, {})
        const [bob, carol, dave] = [
          await waiter(scene, BOB, {}),
          await waiter(scene, CAROL, {}),
          await waiter(scene, 'dave', {}),
        ]
        await define(scene, 3, first)
        await hears(scene, bob, 0)
        await claim(scene, BOB, {}, { client: bob.client, ticket: bob.ticket })
        await hears(scene, carol, 0)
        await hears(scene, dave, 1)
        await claim(scene, CAROL, {}, { client: carol.client, ticket: carol.ticket })
        // On a slow machine carol may have been passed over meanwhile, and dave called in its place.
        if (scene.realTime) return
        const last = vacancies(scene, await dave.after())
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
      async (scene) => {
        const first = await define(scene, 1, undefined)
        await claim(scene, ALICE, {})
        const waiters: Waiter[] = []
        for (const holder of [BOB, CAROL, 'dave']) waiters.push(await waiter(scene, holder, {}))
        await define(scene, undefined, first)
        for (const each of waiters) await hears(scene, each, 0)
        // And they are in nobody's way if they do not come.
        await define(scene, 2, undefined)
        await claim(scene, 'eve', {})
      },
      'shares',
      'addressed',
    )

    clause(
      'the refusal of one who does not wait notifies the first in the queue, if there is room for it',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 1 })
        const bob = await waiter(scene, BOB, { capacity: 1 })
        await vacate(scene, ALICE)
        await hears(scene, bob, 0)
        const before = vacancies(scene, await bob.after()).length
        await refused(scene, CAROL, { capacity: 1 })
        await scene.until('another call of the first', () => vacancies(scene, bob.heard).length > before || bob.heard)
      },
      'shares',
      'addressed',
    )

    clause(
      'one who comes to wait has those passed over who were notified before it and do not come',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 1 })
        await enter(scene, BOB, { capacity: 1 })
        await vacate(scene, ALICE)
        const carol = await waiter(scene, CAROL, { capacity: 1 })
        same(carol.ticket.ahead, 1, 'how many are ahead')
        await hears(scene, carol, 0)
        await claim(scene, CAROL, { capacity: 1 }, { client: carol.client, ticket: carol.ticket })
      },
      'shares',
      'addressed',
    )

    clause(
      'one who looks again, and meets nothing but those ahead, has them notified anew, and passed over if they do not come',
      async (scene) => {
        for (const holder of [ALICE, 'eve']) await claim(scene, holder, { capacity: 2 })
        const bob = await waiter(scene, BOB, { capacity: 2 })
        const carol = await waiter(scene, CAROL, { capacity: 2 })
        await vacate(scene, ALICE)
        await hears(scene, bob, 0)
        await hears(scene, carol, 1)
        const before = vacancies(scene, await bob.after()).length
        await refused(scene, CAROL, { capacity: 2 }, { client: carol.client, ticket: carol.ticket })
        await scene.until('another call of the first', () => vacancies(scene, bob.heard).length > before || bob.heard)
        await hears(scene, carol, 0)
        await claim(scene, CAROL, { capacity: 2 }, { client: carol.client, ticket: carol.ticket })
      },
      'shares',
      'addressed',
    )

    clause(
      'who waits is notified when the capacity falls below its weight, and is out of the way of those behind',
      async (scene) => {
        const first = await define(scene, 4, undefined)
        await claim(scene, ALICE, {})
        const bob = await waiter(scene, BOB, { weight: 4 })
        const carol = await waiter(scene, CAROL, {})
        await define(scene, 2, first)
        await hears(scene, bob, 0)
        await hears(scene, carol, 0)
        await claim(scene, CAROL, {}, { client: carol.client, ticket: carol.ticket })
      },
      'shares',
      'addressed',
    )

    clause(
      'who waits is notified once there is room for what it asked for last',
      async (scene) => {
        await claim(scene, ALICE, { capacity: 2 })
        await claim(scene, BOB, { capacity: 2 })
        const carol = await waiter(scene, CAROL, { weight: 2, capacity: 2 })
        await refused(scene, 'dave', { capacity: 2 }, { client: carol.client, ticket: carol.ticket })
        await scene.b.releaseLease(share(scene, ALICE), ALICE)
        await hears(scene, carol, 0)
      },
      'shares',
      'addressed',
    )

    clause(
      'the holder of a share is notified when another ends it, and those who watch it',
      async (scene) => {
        const { a } = scene
        const holder = await scene.hearer()
        const watcher = await scene.hearer()
        await claim(scene, BOB, { capacity: 1 }, { client: holder.client })
        await watcher.client.refresh([share(scene, BOB)], { watcher: scene })
        await a.refresh([share(scene, BOB)])
        await a.releaseLease(share(scene, BOB), BOB, { term: termOf(known(a, share(scene, BOB))) })
        for (const { heard } of [holder, watcher]) {
          await scene.until(
            'word of the end',
            () => heard.some((it) => it.kind === 'vacated' && it.lease === share(scene, BOB)) || heard,
          )
        }
      },
      'shares',
      'addressed',
    )

    // ── late packets ──────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a definition that comes late does not undo a later one',
      async (scene) => {
        const first = await define(scene, 3, undefined)
        const { client, faults } = await scene.openFaulty()
        const packets = faults.holdBack(1)
        const given = new AbortController()
        const giving = later(countedOf(client).define(countedName(scene.lease), { capacity: 9, from: first }, given))
        await scene.until('a packet under way', () => packets.count >= 1)
        given.abort(new Error('given up'))
        await giving.catch(() => {})
        await scene.until('a definition beside it', async () => {
          return (await outcomeOf(define(scene, 5, first).then(() => {}))) === 'granted'
        })
        await packets.letGo()
        same((await read(scene)).capacity, 5, 'the capacity')
      },
      'shares',
      'faults',
    )

    clause(
      'a first definition that was sent twice does not define again what is not defined any more',
      async (scene) => {
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        const counted = countedOf(client)
        const name = countedName(scene.lease)
        const first = await scene.settle(counted.define(name, { capacity: 3, from: undefined }), 'the definition')
        faults.heal()
        await define(scene, undefined, first)
        await packets.letGo()
        same((await read(scene)).capacity, undefined, 'the capacity')
      },
      'shares',
      'faults',
      'repeats',
    )

    clause(
      'a definition whose reply is lost takes effect, and is never refused',
      async (scene) => {
        const { client, faults } = await scene.openFaulty()
        const name = countedName(scene.lease)
        const counted = countedOf(client)
        faults.loseReplies(1)
        const first = await scene.settle(counted.define(name, { capacity: 3, from: undefined }), 'the definition')
        faults.loseReplies(1)
        const second = await scene.settle(counted.define(name, { capacity: 4, from: first }), 'the second definition')
        same((await read(scene)).generation, second, 'the generation')
        faults.loseReplies(1)
        const end = scene.settle(counted.define(name, { capacity: undefined, from: second }), 'the end')
        // A store that keeps no trace of what is not defined may not know.
        await end.catch((error: unknown) => same(codeOf(error), 'LEASE_UNKNOWN', 'what became of it'))
        same((await read(scene)).generation, undefined, 'the generation')
      },
      'shares',
      'faults',
    )

    clause(
      'a first definition whose replies are lost is not made again once another has ended it',
      async (scene) => {
        const { client, faults } = await scene.openFaulty()
        const name = countedName(scene.lease)
        faults.loseReplies()
        const defining = later(countedOf(client).define(name, { capacity: 3, from: undefined }))
        await scene.until('the definition', async () => (await read(scene)).capacity === 3)
        await define(scene, undefined, (await read(scene)).generation)
        faults.heal()
        const outcome = await scene.settle(
          defining.then(() => 'granted', codeOf),
          'what became of it',
        )
        same(outcome, 'LEASE_UNKNOWN', 'what became of it')
        same((await read(scene)).capacity, undefined, 'the capacity')
      },
      'shares',
      'faults',
    )

    clause(
      'a claim of a share that comes late takes no room',
      (scene) =>
        hasty(scene, async ({ client, faults }) => {
          await define(scene, 1, undefined)
          const packets = faults.holdBack(1)
          const claiming = later(claim(scene, ALICE, {}, { client }))
          await scene.until('a packet under way', () => packets.count >= 1)
          await scene.settle(claiming, 'the second packet')
          await client.releaseLease(share(scene, ALICE), ALICE)
          await packets.letGo()
          await soon(scene, BOB, {}, scene.b)
          await holders(scene, BOB)
        }),
      'shares',
      'faults',
    )

    clause(
      'a claim whose reply is lost is granted once',
      async (scene) => {
        await define(scene, 2, undefined)
        const { client, faults } = await scene.openFaulty()
        faults.loseReplies(1)
        await scene.settle(claim(scene, ALICE, {}, { client }), 'the claim')
        faults.heal()
        await holders(scene, ALICE)
        await claim(scene, BOB, {})
        await refused(scene, CAROL, {})
      },
      'shares',
      'faults',
    )

    // ── guards ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'the guard of a share passes while it stands, and not afterwards, whatever other shares do',
      async (scene) => {
        const { a, b, guard } = scene
        await claim(scene, ALICE, { capacity: 2 }, { client: a })
        const { trapdoor } = known(a, share(scene, ALICE))
        const text = `${scene.lease} of alice`
        await guard.write(trapdoor, text)
        await claim(scene, BOB, { capacity: 2 })
        await b.releaseLease(share(scene, BOB), BOB)
        await guard.write(trapdoor, `${text} again`)
        await a.releaseLease(share(scene, ALICE), ALICE)
        await rejects('LEASE_NOT_HELD', guard.write(trapdoor, `${text} too late`), 'a write after the release')
        await claim(scene, ALICE, { capacity: 2 }, { client: a })
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
      async (scene) => {
        const { b, lease, longMs: duration } = scene
        const sound = { holder: ALICE, duration, share: { weight: 1, capacity: 1 } }
        for (const [name, request] of [
          [share(scene, ALICE), { holder: ALICE, duration }],
          [share(scene, BOB), sound],
          [lease, sound],
          [`${lease}#`, sound],
          [`#${ALICE}`, sound],
          [`${lease}#${ALICE}#b`, { ...sound, holder: `${ALICE}#b` }],
          [share(scene, ALICE), { ...sound, share: { weight: 2, capacity: 1 } }],
          ...[0, -1, 0.5, Number.NaN, 2 ** 30 + 1].flatMap((bad) => [
            [share(scene, ALICE), { ...sound, share: { weight: bad, capacity: 1 } }] as const,
            [share(scene, ALICE), { ...sound, share: { weight: 1, capacity: bad } }] as const,
          ]),
        ] as const) {
          await rejects('LEASE_NOT_VALID', b.claimLease(name, request), `a claim of ${name}`)
        }
        same((await read(scene)).shares.size, 0, 'how many shares stand')
      },
      'shares',
    )
  },
}

function share({ lease }: Scene, holder: string): string {
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
  { b, lease, longMs }: Scene,
  holder: string,
  { weight = 1, capacity, ahead }: Partial<ShareRequest>,
  { client = b, name = lease, duration = longMs, ticket, maxWaiters, onRefused }: ClaimOptions = {},
): Promise<void> {
  const request = { holder, duration, share: { weight, capacity, ahead } }
  await client.claimLease(shareName(name, holder), request, { ticket, maxWaiters, onRefused })
}

/** The claim is refused by the counted lease. @param options.isOver the shares in the way may have lapsed by now: nothing is demanded */
async function refused(
  scene: Scene,
  holder: string,
  request: Partial<ShareRequest>,
  options: ClaimOptions & { readonly isOver?: boolean } = {},
): Promise<ShareRefusal> {
  const refusals: ShareRefusal[] = []
  const claiming = claim(scene, holder, request, { ...options, onRefused: (refusal) => refusals.push(refusal) })
  if (options.isOver === true) {
    if ((await outcomeOf(claiming)) === 'granted')
      await (options.client ?? scene.b).releaseLease(share(scene, holder), holder)
    return refusals[0] ?? { capacity: undefined, blocking: undefined }
  }
  await invalid(claiming, `a claim of a share by ${holder}`)
  const [refusal] = refusals
  assert(refusal !== undefined, 'it was not the counted lease that refused the claim')
  return refusal
}

/** Claims as soon as there is room. */
async function soon(scene: Scene, holder: string, request: Partial<ShareRequest>, client: Client): Promise<void> {
  await countedOf(client).read(countedName(scene.lease))
  await scene.until(`a share for ${holder}`, async () => {
    const outcome = await outcomeOf(claim(scene, holder, request, { client }))
    return outcome === 'granted' || outcome
  })
}

function countedOf({ counted }: Client): CountedClient {
  assert(counted !== undefined, 'the client keeps no counted leases')
  return counted
}

function read({ a, lease }: Scene, name: string = lease): Promise<CountedInfo> {
  return countedOf(a).read(countedName(name))
}

function define(
  { a, lease }: Scene,
  capacity: number | undefined,
  from: string | undefined,
  client: Client = a,
): Promise<string> {
  return countedOf(client).define(countedName(lease), { capacity, from })
}

async function holders(scene: Scene, ...expected: readonly string[]): Promise<void> {
  const { shares } = await read(scene)
  same([...shares.keys()].toSorted(), expected.map((holder) => share(scene, holder)).toSorted(), 'the shares')
}

async function open(scene: Scene, count: number): Promise<Client[]> {
  const clients: Client[] = []
  for (let index = 0; index < count; index++) clients.push(await scene.open())
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
  scene: Scene,
  holder: string,
  request: Partial<ShareRequest>,
  options: ClaimOptions = {},
): Promise<Ticket> {
  const ticket = noTicket()
  await refused(scene, holder, request, { ...options, ticket })
  assert(ticket.place > 0, 'the refusal gave no ticket')
  return ticket
}

/** Releases the share, and is gone: nobody sees to it that those who were told come. */
async function vacate(scene: Scene, holder: string): Promise<void> {
  const client = await scene.open()
  await client.refresh([share(scene, holder)])
  await client.releaseLease(share(scene, holder), holder)
  await client.close()
}

/** One who waits for a share, in a process of its own. */
interface Waiter extends Hearer {
  readonly ticket: Ticket
}

async function waiter(scene: Scene, holder: string, request: Partial<ShareRequest>): Promise<Waiter> {
  const hearer = await scene.hearer()
  return { ...hearer, ticket: await enter(scene, holder, request, { client: hearer.client }) }
}

function vacancies(
  { lease }: Scene,
  heard: readonly object[],
): readonly { readonly place: number; readonly ahead: number }[] {
  return heard.flatMap((change) => {
    const { kind, lease: name, to } = change as { kind: string; lease?: string; to?: { place: number; ahead: number } }
    return kind === 'vacated' && name === countedName(lease) && to !== undefined ? [to] : []
  })
}

async function hears(scene: Scene, { ticket, heard }: Waiter, ahead: number): Promise<void> {
  const { place } = ticket
  await scene.until(
    'the call',
    () => vacancies(scene, heard).some((to) => to.place === place && to.ahead === ahead) || heard,
  )
}
