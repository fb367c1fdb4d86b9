"""The names of columns by the role that they have."""

import re
from collections.abc import Iterable
from functools import lru_cache

WITHIN = "[]."
"""Between the key of a list and a key of its objects: `ratings[].item`."""

ROLES = {
    role: tuple(names.split())
    for role, names in {
        "user": (
            "userid user uid userno usr userkey reviewerid customerid memberid customer custid client clientid "
            "reviewer member buyer buyerid visitorid visitor accountid account authorid authorsteamid steamid "
            "playerid readerid listenerid subscriberid shopperid personid profileid householdid sessionid "
            "username reviewusername reviewername userlogin reviewprofilename profilename userpseudoid "
            "anonymousid domainuserid reviewemail revieweremail customeremail usermd5 criticname criticid raterid "
            "consumerid kunde kundennr kundenid voterid ratinguserid userprofileid uuid userhash reviewers "
            "kundenr householdkey msno displayname "
            "tastername reviewuserid session"
        ),
        "item": (
            "itemid movieid parentasin item movie itemno bookid productid asin isbn iid sku articleid filmid "
            "trackid songid gameid appid businessid recipeid animeid artistid newsid contentid videoid showid "
            "courseid listingid restaurantid hotelid placeid beerid wineid albumid podcastid jokeid stockcode "
            "goodsid offerid adid mid pid aid bookmarkid productproductid beerbeerid gmapid rottentomatoeslink "
            "programid episodeid messageid postid questionid jobid eventitemid tconst tmdbid imdbid mangaid bggid "
            "commentpostid productsku artikel artikelnr artikelid boardgameid productcode itemcode upc ean hotel "
            "venueid poiid locationid product article book film game track song anime business malid skuid documentid"
        ),
        "rating": (
            "rating score stars overall starrating reviewscore reviewrating ratingvalue userrating grade "
            "bookrating movierating myrating userscore reviewoverall votedup isrecommended recommended "
            "recommendation thumbs thumb vote preference myscore eventvalue ratingscore itemrating productrating "
            "bewertung sterne starsgiven yourrating watchratio userreviewscore hotelrating animerating "
            "recommend ratingval rate"
        ),
        "timestamp": (
            "timestamp time ts unixreviewtime unixtime datetime createdat date timestamps reviewdate ratingdate "
            "orderdate purchasedate ratedat reviewedat createddate reviewtime timestampcreated eventtime "
            "eventtimestamp invoicedate dateadded dateupdated updatedat submitted posted postedat rateddate "
            "watcheddate clickedat viewedat playedat transactiondate unixtimestamp reviewcreated at tdat "
            "datereviews impressiontime submissiontime submissiondate ratingtimestamp ratingtime mylastupdated "
            "commentdate createdutc reviewcreationdate datum daterated eventdate clicktime requesttime "
            "publishedat useddate reviewtimestamp votedat likedat readat lastplayed invoicetime ordertime day "
            "transactiondt"
        ),
        "label": ("label like liked click clicked islike isclick"),
        "split": ("split subset fold partition"),
        "title": (
            "title movietitle itemtitle booktitle producttitle name productname itemname gametitle gamename "
            "appname artistname trackname songtitle recipename animetitle originaltitle businessname newstitle "
            "articletitle coursename listingname showtitle titel prodname"
        ),
    }.items()
}
"""Column names of each role, compared without case, spaces, `_`, `-`, `.`, `:` and RecBole's `:type`."""
SURE = {"userid", "user", "itemid", "item", "movieid", "parentasin", "rating", "timestamp", "title"}
"""Names that mean their role whatever the other columns are called."""
WEAK = {
    "at", "criticname", "dateupdated", "day", "displayname", "ean", "grade", "householdid", "imdbid", "isbn",
    "lastplayed", "location", "mid", "myscore", "originaltitle", "pid", "profilename", "readat", "revieweremail",
    "reviewername", "reviewprofilename", "reviewtime", "reviewusername", "session", "sessionid", "tmdbid", "upc",
    "updatedat", "userlogin", "username", "uuid", "vote"
}  # fmt: skip
"""Names that mean their role only where no other column does."""


@lru_cache(4096)  # 64 calls a table
def plain_name(name: str) -> str:
    """A column's name in lower case, without separators and RecBole's type."""
    name = name.rpartition(WITHIN)[2].lower()
    return re.sub(r"[_\-. /()]", "", name.partition(":")[0] or name)


def named_as(chosen: str, names: Iterable[str]) -> list[str]:
    """The columns that a user may mean: in letters of either case, with or without the list that they are in."""
    return [n for n in names if chosen.casefold() in (n.casefold(), n.rpartition(WITHIN)[2].casefold())]
