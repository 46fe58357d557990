"""What a user can mend."""


class UserError(Exception):
    """Something that the user can mend; the command prints it as one line, without a traceback.

    Its text reads: WHERE must be RULE, got VALUE. WHAT TO DO.
    """
