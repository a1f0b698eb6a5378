import assert from 'node:assert/strict'
import { Duration, type DurationLike } from 'luxon'
import type { Client } from '../client.ts'
import type { ErrNotValid } from '../errors.ts'
import { MAX_DURATION_MS, MAX_NAME_BYTES, MAX_VALUE_BYTES } from '../lease.ts'
import { disclosed } from '../shown.ts'
import type { Suite } from './kit.ts'
import { ALICE, BOB, describeError, known, rejects, same } from './kit.ts'

const BAD_NAMES: readonly unknown[] = [
  '',
  ' ',
  'with space',
  'tab\there',
  'line\nbreak',
  'carriage\r',
  'nul\0',
  'bell\u0007',
  'delete\u007f',
  'next-line\u0085',
  'no-break\u00a0space',
  'ideographic\u3000space',
  'line-separator\u2028',
  'byte-order\ufeffmark',
  'dot.ted',
  '#hash',
  'hash#',
  'a#b#c',
  'dol$lar',
  'x'.repeat(MAX_NAME_BYTES + 1),
  '雪'.repeat(MAX_NAME_BYTES / 3 + 1),
  'lone\ud800surrogate',
  'surrogate-at-the-end\udc00',
  undefined,
  null,
  0,
  42,
  true,
  {},
  [],
  ['name'],
  Symbol('name'),
  7n,
]

/** A lease may be a share, and its two names obey the same rules. */
const BAD_LEASES: readonly unknown[] = [
  ...BAD_NAMES,
  '#',
  'ha##sh',
  'ha#dot.ted',
  'do$t#sh',
  `${'x'.repeat(MAX_NAME_BYTES + 1)}#sh`,
  `ha#${'x'.repeat(MAX_NAME_BYTES + 1)}`,
]

const BAD_DURATIONS: readonly unknown[] = [
  0,
  -0,
  -1,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  MAX_DURATION_MS + 1,
  Number.MAX_VALUE,
  undefined,
  null,
  '30s',
  '1000',
  true,
  {},
  { seconds: 0 },
  { seconds: -1 },
  { seconds: 1, minutes: -1 },
  { seconds: 'many' },
  { fortnights: 1 },
  { years: 1000 },
  Duration.fromMillis(0),
  Duration.fromMillis(-5),
  Duration.invalid('on purpose'),
  7n,
  Symbol('duration'),
]

const BAD_VALUES: readonly unknown[] = [
  'x'.repeat(MAX_VALUE_BYTES + 1),
  '雪'.repeat(MAX_VALUE_BYTES / 3 + 1),
  'nul\0',
  'lone\udfffsurrogate',
  null,
  0,
  true,
  {},
  Buffer.from('bytes'),
]

/** What breaks a rule is refused with all its problems by name, nothing is sent, and there always is an answer. */
export const badInput: Suite = {
  title: 'bad input',
  state(clause) {
    clause('a bad lease name is refused by every operation', async ({ a, longMs }) => {
      const request = { holder: ALICE, duration: longMs }
      for (const bad of BAD_LEASES) {
        const lease = bad as string
        await problem('lease', lease, () => a.claimLease(lease, request))
        await problem('lease', lease, () => a.extendLease(lease, request))
        await problem('lease', lease, () => a.expireLease(lease))
        await problem('lease', lease, () => a.releaseLease(lease, ALICE))
        await problem('lease', lease, () => a.pinLease(lease, 'operator'))
        await problem('lease', lease, () => a.unpinLease(lease, 'operator'))
        await problem('lease', lease, () => a.refresh(['fine', lease]))
      }
    })

    clause('a bad holder is refused by every operation that takes one', async (context) => {
      const { a, lease, longMs } = context
      for (const bad of BAD_NAMES) {
        const holder = bad as string
        await problem('holder', holder, () => a.claimLease(lease, { holder, duration: longMs }))
        await problem('holder', holder, () => a.extendLease(lease, { holder, duration: longMs }))
        await problem('holder', holder, () => a.releaseLease(lease, holder))
      }
      assert.equal(await context.holding(a), undefined, 'a bad holder holds it')
    })

    clause('a bad entity is refused for pin and unpin', async ({ a, lease }) => {
      for (const bad of BAD_NAMES) {
        const entity = bad as string
        await problem('entity', entity, () => a.pinLease(lease, entity))
        await problem('entity', entity, () => a.unpinLease(lease, entity))
      }
      assert.equal((await a.pinned()).has(lease), false, 'a bad entity pins it')
    })

    clause('a bad duration is refused for claim and extension', async (context) => {
      const { a, lease, longMs } = context
      const held = `${lease}-held`
      await a.claimLease(held, { holder: ALICE, duration: longMs })
      const before = known(a, held)
      for (const bad of BAD_DURATIONS) {
        const duration = bad as DurationLike
        await problem('duration', duration, () => a.claimLease(lease, { holder: ALICE, duration }))
        await problem('duration', duration, () => a.extendLease(held, { holder: ALICE, duration }))
      }
      assert.equal(await context.holding(a), undefined, 'it was claimed')
      await context.stillHeld(a, before, held)
    })

    clause('a bad value is refused for claim and extension', async (context) => {
      const { a, lease, longMs } = context
      const held = `${lease}-held`
      await a.claimLease(held, { holder: ALICE, duration: longMs, value: 'good' })
      const before = known(a, held)
      for (const bad of BAD_VALUES) {
        const value = bad as string
        await problem('value', value, () => a.claimLease(lease, { holder: ALICE, duration: longMs, value }))
        await problem('value', value, () => a.extendLease(held, { holder: ALICE, duration: longMs, value }))
      }
      assert.equal(await context.holding(a), undefined, 'it was claimed')
      await context.stillHeld(a, before, held)
    })

    clause('all problems of a call are reported at once, each with its argument, rule and value', async ({ a }) => {
      const request = { holder: '', duration: -1, value: 'nul\0' }
      for (const call of [() => a.claimLease('no good', request), () => a.extendLease('no good', request)]) {
        const error = await notValidError(call)
        same(
          error.problems.map(({ argument, value }) => [argument, value]),
          [
            ['lease', 'no good'],
            ['holder', ''],
            ['duration', -1],
            ['value', 'nul\0'],
          ],
          'the problems',
        )
      }
      const pin = await notValidError(() => a.pinLease('no good', 'no.good'))
      same(
        pin.problems.map(({ argument }) => argument),
        ['lease', 'entity'],
        'the arguments named',
      )
    })

    clause('after bad input the client is as good as before', async (context) => {
      const { a, b, lease, longMs } = context
      await Promise.allSettled([
        rejects(
          'LEASE_NOT_VALID',
          answered(() => a.claimLease(lease, { holder: '', duration: 0 })),
          'a bad claim',
        ),
        a.claimLease(lease, { holder: ALICE, duration: longMs }),
        rejects(
          'LEASE_NOT_VALID',
          answered(() => a.releaseLease(lease, '')),
          'a bad release',
        ),
      ])
      same((await context.holding(b))?.holder, ALICE, 'the holder')
      await a.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
    })

    clause(
      'bad input is answered even while the store is not: nothing was sent',
      async (context) => {
        const { client, faults } = await context.openFaulty()
        faults.hang()
        const calls = callsWithBadInput(client).map((call) => rejects('LEASE_NOT_VALID', answered(call), 'bad input'))
        let answers = 0
        for (const call of calls) void call.finally(() => answers++).catch(() => {})
        await context.pass(context.unitMs / 10)
        assert.equal(answers, calls.length, `${calls.length - answers} calls wait for the store`)
        await Promise.all(calls)
      },
      'faults',
    )
  },
}

function callsWithBadInput(client: Client): readonly (() => Promise<unknown>)[] {
  return [
    () => client.claimLease('', { holder: ALICE, duration: 1000 }),
    () => client.claimLease('lease', { holder: ALICE, duration: 0 }),
    () => client.extendLease('lease', { holder: 'a b', duration: 1000 }),
    () => client.expireLease('a.b'),
    () => client.releaseLease('lease', ''),
    () => client.pinLease('lease', '#'),
    () => client.unpinLease('', 'entity'),
    () => client.refresh(['$']),
  ]
}

/** The call is refused for this argument alone, by name, rule and value (or its kind, as `notValid` has it), and in words. */
async function problem(argument: string, value: unknown, call: () => Promise<unknown>): Promise<void> {
  const error = await notValidError(call)
  assert.deepEqual(
    error.problems.map((found) => found.argument),
    [argument],
    `${describeInput(argument, value)}: wrong problems in "${error.message}"`,
  )
  const [found] = error.problems
  assert(found !== undefined && found.rule.length > 0, `${describeInput(argument, value)}: no rule`)
  const isNamed = Object.is(found.value, value) || found.value === disclosed(value).value
  assert(isNamed, `${describeInput(argument, value)}: another value is named`)
  assert(error.message.includes(argument), `${describeInput(argument, value)}: not named in "${error.message}"`)
  assert(error.message.includes(found.rule), `${describeInput(argument, value)}: no rule in "${error.message}"`)
}

async function notValidError(call: () => Promise<unknown>): Promise<ErrNotValid> {
  return (await rejects('LEASE_NOT_VALID', answered(call), 'bad input')) as ErrNotValid
}

/** A call must reject rather than throw. */
function answered(call: () => Promise<unknown>): Promise<unknown> {
  try {
    return call()
  } catch (error) {
    throw new assert.AssertionError({ message: `it threw synchronously: ${describeError(error)}` })
  }
}

function describeInput(argument: string, value: unknown): string {
  return `${argument} ${typeof value === 'string' ? JSON.stringify(value.slice(0, 30)) : typeof value}`
}
