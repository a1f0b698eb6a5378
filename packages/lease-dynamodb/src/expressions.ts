/**
 * What requests say of attributes. DynamoDB keeps many words for itself, so a request gives every attribute and value as a placeholder, here
 * always `#name` and `:name`.
 */
import type { AttributeValue } from '@aws-sdk/client-dynamodb'
import type { Item } from './driver.ts'
import { ATTRIBUTES, RANGE, VERSION } from './layout.ts'

/** The placeholders of an expression. */
export interface Placeholders<Value> {
  ExpressionAttributeNames: Record<string, string>
  ExpressionAttributeValues: Record<string, Value>
}

/** @param values by the names of their placeholders */
export function placeholders<Value>(
  attributes: readonly string[],
  values: Readonly<Record<string, Value>>,
): Placeholders<Value> {
  return {
    ExpressionAttributeNames: Object.fromEntries(attributes.map((name) => [`#${name}`, name])),
    ExpressionAttributeValues: Object.fromEntries(Object.entries(values).map(([name, value]) => [`:${name}`, value])),
  }
}

/** A condition of a write. */
interface Condition extends Pick<Placeholders<AttributeValue>, 'ExpressionAttributeNames'> {
  readonly ConditionExpression: string
  readonly ExpressionAttributeValues?: Item
}

/** Whether the item is as it was when it had this version; undefined: absent. */
export function isUnchanged(version: string | undefined): Condition {
  if (version !== undefined) {
    return { ConditionExpression: `#${VERSION} = :was`, ...placeholders([VERSION], { was: { S: version } }) }
  }
  const { ExpressionAttributeNames } = placeholders([RANGE], {})
  return { ConditionExpression: `attribute_not_exists(#${RANGE})`, ExpressionAttributeNames }
}

/** Gives the item these attributes, and of the others of a lease none, on condition that it still has the version `was`. */
export function replaceAttributes(
  was: string | undefined,
  attributes: Item,
): Condition & { readonly UpdateExpression: string } {
  const sets = ATTRIBUTES.filter((name) => name in attributes).map((name) => `#${name} = :${name}`)
  // Never none: a lease has not all that a counted lease has.
  const removals = ATTRIBUTES.filter((name) => !(name in attributes)).map((name) => `#${name}`)
  const { ConditionExpression, ExpressionAttributeNames, ExpressionAttributeValues } = isUnchanged(was)
  const own = placeholders(ATTRIBUTES, attributes)
  return {
    UpdateExpression: `SET ${sets.join(', ')} REMOVE ${removals.join(', ')}`,
    ConditionExpression,
    ExpressionAttributeNames: { ...own.ExpressionAttributeNames, ...ExpressionAttributeNames },
    ExpressionAttributeValues: { ...own.ExpressionAttributeValues, ...ExpressionAttributeValues },
  }
}
