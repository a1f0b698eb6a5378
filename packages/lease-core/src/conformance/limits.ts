import assert from 'node:assert/strict'
import { Duration, type DurationLike } from 'luxon'
import { MAX_DURATION_MS, MAX_NAME_BYTES, MAX_VALUE_BYTES } from '../lease.ts'
import type { Suite, Context } from './kit.ts'
import { ALICE, BOB, describeError, invalid, isUnknown, known, same } from './kit.ts'

/** Names that are allowed, and that a careless store mangles. The tag keeps them unique to the clause. */
function awkwardNames(tag: string): readonly string[] {
  return [
    `${tag}'; DROP TABLE lease; --`.replaceAll(' ', '/**/'),
    `${tag}"quoted"`,
    `${tag}\\back\\slash\\n`,
    `${tag}%s%d%%_like`,
    `${tag}|pipe|:colon:,comma,;`,
    `${tag}{hash}tag`,
    `${tag}[*?]glob`,
    `${tag}/path/../`.replaceAll('.', '-'),
    `${tag}?query=1&b=2`,
    `${tag}(parens)<tags>`,
    `${tag}\`tick\`~!@^+=`,
    `${tag}NULL`,
    `${tag}-é`, // composed
    `${tag}-e\u0301`, // decomposed: another name
    `${tag}-É`,
    `${tag}-ß`,
    `${tag}-SS`,
    `${tag}-雪`,
    `${tag}-🦉`,
    `${tag}-👩‍🚀`,
    `${tag}-\u202Ertl`,
    `${tag}-ﬁ`,
    `${tag}-fi`,
    `${tag}-FI`,
  ]
}

/** Everything within the limits is taken as it is. */
export const limits: Suite = {
  title: 'limits',
  state(clause) {
    clause('awkward names are names like any other, and no two are the same', async (context) => {
      const { a, b, longMs } = context
      const names = awkwardNames(context.lease)
      for (const lease of names) await a.claimLease(lease, { holder: ALICE, duration: longMs, value: lease })
      await b.refresh(names)
      for (const lease of names) same(known(b, lease).value, lease, 'the value')
      await a.refresh()
      for (const lease of names) assert.equal(known(a, lease).value, lease, 'seen otherwise in a full refresh')
      for (const lease of names) await a.releaseLease(lease, ALICE)
      await b.refresh(names)
      for (const lease of names) same(b.leases().get(lease), undefined, 'the holding known')
    })

    clause('awkward holders are holders like any other', async (context) => {
      const { a, b, longMs } = context
      for (const [index, holder] of awkwardNames('h').entries()) {
        const lease = `${context.lease}-${index}`
        await a.claimLease(lease, { holder, duration: longMs })
        await a.extendLease(lease, { holder, duration: longMs })
        same((await context.holding(b, lease))?.holder, holder, 'the holder')
        await invalid(b.releaseLease(lease, `${holder}-`), 'a release by another')
        await b.releaseLease(lease, holder)
      }
    })

    clause('names of the runtime’s own objects are names like any other', async (context) => {
      const { a, b, longMs } = context
      const elsewhere = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'undefined', 'null', '0', '-1']
      const client = await context.openElsewhere()
      for (const lease of elsewhere) {
        await client.claimLease(lease, { holder: lease, duration: longMs, value: lease })
        await client.refresh([lease])
        same(known(client, lease).holder, lease, 'the holder')
        await client.pinLease(lease, '__proto__')
        same((await client.pinned()).get(lease), ['__proto__'], 'the pins')
        await client.unpinLease(lease, '__proto__')
        await client.releaseLease(lease, lease)
        same(client.leases().has(lease), false, 'whether the client knows it')
      }
      same(a.leases().has('__proto__') || b.leases().has('__proto__'), false, 'whether the client knows it')
    })

    clause('awkward entities pin like any other', async (context) => {
      const { a, b, lease } = context
      const entities = awkwardNames('e')
      for (const entity of entities) await a.pinLease(lease, entity)
      same(new Set((await b.pinned()).get(lease)), new Set(entities), 'the pins')
      for (const entity of entities) await b.unpinLease(lease, entity)
      same((await a.pinned()).has(lease), false, 'whether it is in the list of pins')
    })

    clause('names of 255 bytes are whole, and differ in their last byte', async (context) => {
      const { b, longMs, a } = context
      const stem = `${context.lease}-`.padEnd(MAX_NAME_BYTES - 3, 'x')
      const names = [`${stem}abc`, `${stem}abd`, `${stem}雪`]
      for (const lease of names) {
        assert.equal(Buffer.byteLength(lease), MAX_NAME_BYTES)
        await a.claimLease(lease, { holder: lease, duration: longMs })
        await a.pinLease(lease, lease)
      }
      await b.refresh(names)
      const pinned = await b.pinned()
      for (const lease of names) {
        same(known(b, lease).holder, lease, 'the holder')
        same(pinned.get(lease), [lease], 'the pins')
        await b.unpinLease(lease, lease)
        await b.releaseLease(lease, lease)
      }
    })

    clause('values up to 4 KiB are kept byte for byte', async (context) => {
      const { a, b, longMs } = context
      const everyCharacter = Array.from({ length: 0x17f }, (_, code) => String.fromCodePoint(code + 1)).join('')
      const values = [
        'x'.repeat(MAX_VALUE_BYTES),
        '雪'.repeat(Math.floor(MAX_VALUE_BYTES / 3)),
        '🦉'.repeat(MAX_VALUE_BYTES / 4),
        everyCharacter,
        ' leading and trailing \r\n\t ',
        '{"json":["\\u0000",null]}',
        "'; DROP TABLE lease; --",
        'null',
        '|a|b|',
      ]
      for (const [index, value] of values.entries()) {
        const lease = `${context.lease}-${index}`
        await a.claimLease(lease, { holder: ALICE, duration: longMs, value })
        same((await context.holding(b, lease))?.value, value, 'the value')
        await a.extendLease(lease, { holder: ALICE, duration: longMs, value: `${index}` })
        await a.extendLease(lease, { holder: ALICE, duration: longMs, value })
        assert.equal((await context.holding(b, lease))?.value, value, 'not so after an extension')
      }
    })

    clause('a duration may be a number, an object or a luxon Duration', async (context) => {
      const { longMs } = context
      await lasts(context, 'number', longMs, longMs)
      await lasts(context, 'object', { milliseconds: longMs }, longMs)
      await lasts(context, 'mixed', { hours: 1, minutes: 30, seconds: 2.5 }, 5_402_500)
      await lasts(context, 'luxon', Duration.fromObject({ days: 2 }), 172_800_000)
    })

    clause('a duration of a hundred years is kept', async (context) => {
      await lasts(context, 'longest', MAX_DURATION_MS, MAX_DURATION_MS)
    })

    clause('a duration below a millisecond is granted, and soon over', async (context) => {
      const { a, b, longMs } = context
      let lease = context.lease
      await context.until('grant for a quarter of a millisecond', async () => {
        try {
          await a.claimLease(lease, { holder: ALICE, duration: 0.25 })
          return true
        } catch (error) {
          // A claim for so short a time does not wait long for its answer.
          if (!context.realTime || !isUnknown(error)) throw error
          lease += '-again'
          return describeError(error)
        }
      })
      await context.lapse(lease, 1, b)
      await context.claimSoon(b, lease, BOB, longMs)
    })
  },
}

/** A lease claimed for this duration, and one extended to it, expire that much later. */
async function lasts(context: Context, tag: string, duration: DurationLike, expectedMs: number): Promise<void> {
  const { a, b, unitMs, longMs, clock } = context
  for (const how of ['claimed', 'extended'] as const) {
    const lease = `${context.lease}-${tag}-${how}`
    if (how === 'extended') await a.claimLease(lease, { holder: ALICE, duration: longMs / 2 })
    const sentMs = clock.now()
    if (how === 'claimed') await a.claimLease(lease, { holder: ALICE, duration })
    else await a.extendLease(lease, { holder: ALICE, duration })
    const expiryMs = (await context.holding(b, lease))?.expiry.toMillis() ?? Number.NaN
    const latestMs = clock.now() + expectedMs * 1.01
    assert(expiryMs >= sentMs + expectedMs * 0.999 - 1, `${how}: lasts ${expiryMs - sentMs} ms of ${expectedMs}`)
    assert(expiryMs <= latestMs + unitMs, `${how}: lasts ${expiryMs - sentMs} ms instead of ${expectedMs}`)
  }
}
