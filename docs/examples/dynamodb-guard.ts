/** Guarded transactions in DynamoDB: the lease is one more condition of your own transaction. */
import { TransactWriteCommand, type DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb'
import type { Token } from 'lease-core'
import { DynamoGuard } from 'lease-dynamodb'

/** With the document client of lib-dynamodb. */
export async function setBalance(
  documents: DynamoDBDocumentClient,
  token: Token,
  account: { readonly TableName: string; readonly id: string },
  balance: number,
): Promise<void> {
  const guard = new DynamoGuard()
  await token.check(guard)
  const { TableName, id } = account
  const TransactItems = [...guard.documentChecks, { Put: { TableName, Item: { id, balance } } }]
  // ErrNotHeld: the lease was lost, and nothing was written
  await guard.transact(TransactItems, () => documents.send(new TransactWriteCommand({ TransactItems })))
}

/**
 * With a condition of your own, and under several leases: withdraws only if there is enough. Returns false if there is not; a lease that was
 * lost is `ErrNotHeld` all the same.
 */
export async function withdraw(
  documents: DynamoDBDocumentClient,
  tokens: readonly Token[],
  account: { readonly TableName: string; readonly id: string },
  amount: number,
): Promise<boolean> {
  const guard = new DynamoGuard()
  for (const token of tokens) await token.check(guard)
  const { TableName, id } = account
  const Update = {
    TableName,
    Key: { id },
    UpdateExpression: 'SET balance = balance - :amount',
    ConditionExpression: 'balance >= :amount',
    ExpressionAttributeValues: { ':amount': amount },
  }
  const TransactItems = [{ Update }, ...guard.documentChecks]
  try {
    await guard.transact(TransactItems, () => documents.send(new TransactWriteCommand({ TransactItems })))
    return true
  } catch (error) {
    if (error instanceof Error && error.name === 'TransactionCanceledException') return false // not for a lease
    throw error
  }
}
