/** Which terms a guard demands, and what it takes for their checks. */
import { expect } from 'chai'
import { ErrNotHeld, ErrTrapdoor } from 'lease-core'
import { DynamoGuard } from 'lease-dynamodb'
import { caught } from 'lease-scenes'
import { dynamoTrapdoor, type DynamoCheck, type GuardedTerm } from '#src/guard.ts'

const term = (more: Partial<GuardedTerm> & { readonly namespace?: string } = {}): GuardedTerm => ({
  table: 'leases',
  key: { ns: { S: more.namespace ?? 'ns' }, nm: { S: more.lease ?? 'l' } },
  lease: 'l',
  holder: 'a',
  fencingToken: 7n,
  ...more,
})

async function guardOf(...terms: readonly GuardedTerm[]): Promise<DynamoGuard> {
  const guard = new DynamoGuard()
  for (const one of terms) await dynamoTrapdoor(one)(guard)
  return guard
}

const tokensOf = ({ checks }: DynamoGuard): readonly (string | undefined)[] =>
  checks.map(({ ConditionCheck }) => ConditionCheck.ExpressionAttributeValues[':tk']?.N)

/** An error that has the look of a cancelled transaction. */
const looksCancelled = (name: string, more: object = {}): Error =>
  Object.assign(new Error('specific reasons [ConditionalCheckFailed]'), { name, ...more })

describe('a DynamoGuard', () => {
  it('demands the latest of the terms of one lease and holder, and each of all others', async () => {
    expect(tokensOf(await guardOf(term(), term({ fencingToken: 9n })))).to.deep.equal(['9'])
    expect(tokensOf(await guardOf(term(), term()))).to.deep.equal(['7'])
    const others = [
      term({ holder: 'b', fencingToken: 9n }),
      term({ table: 'others', fencingToken: 9n }),
      term({ namespace: 'other', fencingToken: 9n }),
      term({ lease: 'm', fencingToken: 9n }),
      term({ fencingToken: 6n }), // only one of the two can stand: the transaction is refused
    ]
    for (const other of others) {
      expect(tokensOf(await guardOf(term(), other))).to.deep.equal(['7', String(other.fencingToken)])
    }
  })

  it('names table, item, holder and fencing token in a check, in both forms', async () => {
    const guard = await guardOf(term())
    const common = {
      TableName: 'leases',
      ConditionExpression: '#h = :h AND #tk = :tk',
      ExpressionAttributeNames: { '#h': 'h', '#tk': 'tk' },
    }
    const Key = { ns: { S: 'ns' }, nm: { S: 'l' } }
    const values = { ':h': { S: 'a' }, ':tk': { N: '7' } }
    expect(guard.checks).to.deep.equal([{ ConditionCheck: { ...common, Key, ExpressionAttributeValues: values } }])
    const plain = { Key: { ns: 'ns', nm: 'l' }, ExpressionAttributeValues: { ':h': 'a', ':tk': 7n } }
    expect(guard.documentChecks).to.deep.equal([{ ConditionCheck: { ...common, ...plain } }])
  })

  it('sends nothing without the very check of each term, and takes it in either form', async () => {
    const guard = await guardOf(term())
    for (const items of [guard.checks, guard.documentChecks]) {
      expect(await guard.transact(items, async () => 'sent')).to.equal('sent')
    }
    for (const other of [
      term({ table: 'others' }),
      term({ namespace: 'other' }),
      term({ lease: 'm' }),
      term({ holder: 'b' }),
      term({ fencingToken: 6n }),
    ]) {
      const { checks, documentChecks } = await guardOf(other)
      for (const items of [checks, documentChecks, [], [{ Put: {} }]]) {
        expect(await caught(guard.transact(items, async () => expect.fail('sent')))).to.be.instanceOf(ErrTrapdoor)
      }
    }
  })

  it('reports a lost lease only for a transaction that was cancelled at the check of a term', async () => {
    const guard = await guardOf(term())
    const { checks } = guard
    expect(guard.explain(looksCancelled('TransactionCanceledException'), checks)).to.be.instanceOf(ErrNotHeld)
    for (const error of [
      looksCancelled('ConditionalCheckFailedException'),
      looksCancelled('Error', { CancellationReasons: [{ Code: 'ConditionalCheckFailed' }] }),
      looksCancelled('TransactionCanceledException', { CancellationReasons: [{ Code: 'TransactionConflict' }] }),
    ]) {
      expect(guard.explain(error, checks)).to.equal(error)
    }
    const foreign: readonly DynamoCheck[] = (await guardOf(term({ lease: 'm' }))).checks
    const ofForeign = looksCancelled('TransactionCanceledException')
    expect(guard.explain(ofForeign, foreign)).to.equal(ofForeign)
  })
})
